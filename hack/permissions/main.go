// Command permissions writes the permission table of the registry into a file.
package main

import (
	"fmt"
	"os"

	"github.com/tidelock/tidelock/registry"
	"github.com/tidelock/tidelock/registry/auth"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: permissions FILE")
		os.Exit(2)
	}
	if err := os.WriteFile(os.Args[1], []byte(auth.RenderTable(registry.Endpoints())), 0o644); err != nil { //nolint:gosec // a page of the documentation
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
