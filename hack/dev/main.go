// Command dev is `make run`: a real control plane (kube-apiserver and etcd) on this machine, Tidelock's operator with
// its registry, and the samples. Ctrl-C stops all of it; what it stored stays in .dev/ for the next time.
//
//	make run [ARGS="flags"]
//
// With -cluster it takes the cluster of KUBECONFIG instead of one of its own, and removes at the end what it made there.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// settings say where everything is.
type settings struct {
	// root is the repository, bin the folder of its programs, dir the folder of the state.
	root, bin, dir string
	// registry is the registry's address, host:port; webhook the port of the operator's admission webhook.
	registry string
	webhook  int
	// cluster is true for the cluster of KUBECONFIG.
	cluster bool
}

func init() {
	// Linux ends a child with the thread that started it (see process_linux.go): that has to be the main thread.
	runtime.LockOSThread()
}

func main() {
	err := run(os.Args[1:])
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "make run:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	s, err := parse(args)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	unlock, err := lock(s.dir)
	if err != nil {
		return err
	}
	defer unlock()

	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	p := &processes{dir: filepath.Join(s.dir, "logs")}
	// A second Ctrl-C does not wait.
	context.AfterFunc(ctx, func() {
		again := make(chan os.Signal, 1)
		signal.Notify(again, os.Interrupt, syscall.SIGTERM)
		<-again
		p.kill()
	})

	err = start(ctx, s, p)
	switch {
	case err == nil:
		select {
		case <-ctx.Done():
		case err = <-p.died():
		}
	case ctx.Err() != nil:
		err = nil // stopped before it was up
	}
	if p.idle() {
		return err
	}
	fmt.Println("\nStopping …")
	begun := time.Now()
	if err = errors.Join(err, p.stop()); err != nil {
		return err
	}
	left := fmt.Sprintf("The state is in %s; `make run` goes on with it.", s.show(s.dir))
	if s.cluster {
		left = "The cluster is as it was."
	}
	fmt.Printf("Stopped in %.1f s. %s\n", time.Since(begun).Seconds(), left)
	return nil
}

func parse(args []string) (s settings, err error) {
	flags := flag.NewFlagSet("make run", flag.ContinueOnError)
	flags.StringVar(&s.dir, "dir", ".dev", "`folder` for the state")
	flags.StringVar(&s.bin, "bin", "bin", "`folder` of the built programs")
	flags.StringVar(&s.registry, "registry", "localhost:5000", "`address` of the registry; change the port if it is in use")
	flags.IntVar(&s.webhook, "webhook-port", 9443, "`port` of the operator's admission webhook")
	flags.BoolVar(&s.cluster, "cluster", false, "use the cluster of KUBECONFIG; what is made there is removed at the end")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if flags.NArg() > 0 {
		return s, fmt.Errorf("%q is no flag; see -help", flags.Arg(0))
	}
	if s.root, err = os.Getwd(); err != nil {
		return s, err
	}
	if _, err := os.Stat(filepath.Join(s.root, "config", "local")); err != nil {
		return s, errors.New("start it in the root of the repository")
	}
	if s.dir, err = filepath.Abs(s.dir); err != nil {
		return s, err
	}
	s.bin, err = filepath.Abs(s.bin)
	return s, err
}

// show writes a path as short as it can be typed.
func (s settings) show(path string) string {
	if short, err := filepath.Rel(s.root, path); err == nil && len(short) < len(path) {
		return short
	}
	return path
}
