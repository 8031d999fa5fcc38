// Command image writes the OCI image layout of a tidelock release from static binaries, without a container
// engine. The same binaries, version, revision, time and certificates give the same digest.
//
//	image -out dist/image -version v1.2.3 linux/amd64=bin/tidelock [linux/arm64=…]
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var r release
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	out := flags.String("out", "dist/image", "`folder` to write the layout to; one that is there is replaced")
	certificates := flags.String("certificates", "", "PEM `file` of root certificates for the image; left out if the file is missing")
	created := flags.Int64("created", 0, "build time in `seconds` since 1970, as in SOURCE_DATE_EPOCH")
	flags.StringVar(&r.version, "version", "dev", "version `label`; also the layout's reference name")
	flags.StringVar(&r.revision, "revision", "", "Git `commit` for the label")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: image [flags] OS/ARCH=BINARY...")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	r.created = time.Unix(*created, 0).UTC()
	if *certificates != "" {
		pem, err := os.ReadFile(*certificates)
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		r.certificates = pem
	}
	for _, arg := range flags.Args() {
		platform, file, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("%q is not OS/ARCH=BINARY", arg)
		}
		p, err := v1.ParsePlatform(platform)
		if err != nil {
			return err
		}
		r.binaries = append(r.binaries, binary{platform: *p, file: file})
	}
	if len(r.binaries) == 0 {
		flags.Usage()
		return fmt.Errorf("no binary is given")
	}
	digest, err := r.write(filepath.Clean(*out))
	if err != nil {
		return err
	}
	fmt.Printf("%s@%s\n", *out, digest)
	return nil
}
