package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tidelock/tidelock/registry/meta"
)

// server is a program that serves on the loopback interface: a registry, or what it is compared with.
type server struct {
	name     string
	url      string
	password string
	cmd      *exec.Cmd
	log      string
	ended    chan error
	// engine and remove are those of a registry under test.
	engine engine
	remove func()
}

// startTidelock starts bin/tidelock as it comes, with passwords and with its log, on an empty database and blob store,
// or on what fill made of the database before.
func startTidelock(ctx context.Context, o options, e engine, name string, fill func(context.Context, meta.Store) error) (*server, error) {
	dir := filepath.Join(o.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	const password = "measured"
	secret := filepath.Join(dir, "admin-password")
	if err := os.WriteFile(secret, []byte(password), 0o600); err != nil {
		return nil, err
	}
	stored, err := e.provide(ctx, o, dir)
	if err != nil {
		return nil, err
	}
	if err := stored.fill(ctx, fill); err != nil {
		stored.remove()
		return nil, err
	}
	s, err := startServer(ctx, dir, "/readyz", func(address string) *exec.Cmd {
		flags := append([]string{"registry", "--listen", address, "--admin-password-file", secret, "--mirror-allow-networks", "127.0.0.1"}, stored.flags...)
		return exec.Command(filepath.Join(o.bin, "tidelock"), flags...)
	})
	if err != nil {
		stored.remove()
		return nil, err
	}
	s.name, s.password, s.engine, s.remove = e.name, password, e, stored.remove
	return s, nil
}

func (s *storage) fill(ctx context.Context, fill func(context.Context, meta.Store) error) (err error) {
	if fill == nil {
		return nil
	}
	store, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return fill(ctx, store)
}

// startEach starts a registry on each engine.
func startEach(ctx context.Context, o options, name string) (list []*server, stop func(), err error) {
	stop = func() {
		for _, s := range list {
			s.stop()
		}
	}
	for _, e := range o.engines {
		s, err := startTidelock(ctx, o, e, name+"-"+e.name, nil)
		if err != nil {
			stop()
			return nil, nil, err
		}
		list = append(list, s)
	}
	return list, stop, nil
}

// peerConfig takes the folder of its storage and its address. It is distribution at its best: with the cache of its
// example configuration, and with neither passwords nor logs nor traces to pay for.
const peerConfig = `version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage:
  cache: {blobdescriptor: inmemory}
  filesystem: {rootdirectory: %q}
  delete: {enabled: true}
http: {addr: %q}
`

// startPeer starts distribution on files.
func startPeer(ctx context.Context, o options) (*server, error) {
	dir := filepath.Join(o.dir, "distribution")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "config.yml")
	var failed error
	s, err := startServer(ctx, dir, "/v2/", func(address string) *exec.Cmd {
		failed = os.WriteFile(config, fmt.Appendf(nil, peerConfig, filepath.Join(dir, "data"), address), 0o600)
		command := exec.Command(filepath.Join(o.bin, "registry-peer"), "serve", config)
		command.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none", "OTEL_TRACES_SAMPLER=always_off")
		return command
	})
	if err := errors.Join(failed, err); err != nil {
		return nil, err
	}
	s.name = "distribution"
	return s, nil
}

// serveFilesCommand makes this program serve the files of a folder: all that a pull needs at least.
const serveFilesCommand = "serve-files"

// startFileServer starts a server of the files in a folder, as a program of its own like the others.
func startFileServer(ctx context.Context, dir string) (*server, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s, err := startServer(ctx, dir, "/", func(address string) *exec.Cmd {
		return exec.Command(program, serveFilesCommand, address, dir)
	})
	if err != nil {
		return nil, err
	}
	s.name = "file server"
	return s, nil
}

// serveFiles serves until the process is told to end.
func serveFiles(address, dir string) error {
	return http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, filepath.Join(dir, filepath.Base(r.URL.Path)))
	}))
}

func startServer(ctx context.Context, dir, health string, command func(address string) *exec.Cmd) (*server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return nil, err
	}
	s := &server{url: "http://" + address, log: filepath.Join(dir, "log"), ended: make(chan error, 1), remove: func() {}}
	log, err := os.Create(s.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.cmd = command(address)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	// Ctrl-C is for this process, which stops the others.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { s.ended <- s.cmd.Wait() }()
	if err := s.ready(ctx, health); err != nil {
		s.stop()
		said, _ := os.ReadFile(s.log)
		return nil, fmt.Errorf("%s: %w\n%s", s.cmd.Path, err, said)
	}
	return s, nil
}

func (s *server) ready(ctx context.Context, health string) error {
	deadline := time.After(30 * time.Second)
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+health, nil)
		if err != nil {
			return err
		}
		if response, err := http.DefaultClient.Do(request); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-s.ended:
			s.ended <- err
			return fmt.Errorf("it ended: %s", s.cmd.ProcessState)
		case <-deadline:
			return errors.New("it is not ready after 30 s")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop ends the program, waits for it and returns the CPU time that it has used. It may be called twice.
func (s *server) stop() time.Duration {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(10*time.Second, func() { _ = s.cmd.Process.Kill() })
	defer timer.Stop()
	err := <-s.ended
	s.ended <- err
	s.remove()
	return s.cmd.ProcessState.UserTime() + s.cmd.ProcessState.SystemTime()
}

// cpu is the CPU time that the program has used so far, in steps of the kernel's clock; 0 where there is no /proc.
func (s *server) cpu() time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	// Behind the program's name, which may hold anything: utime and stime are the 12th and 13th field (proc(5)).
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * time.Second / clockTicks
}

// clockTicks is USER_HZ, which is 100 on every architecture that Go runs on.
const clockTicks = 100

// peakMemory is the most physical memory that the program ever had, in MiB.
func (s *server) peakMemory() (float64, error) {
	text := field(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid), "VmHWM")
	size, err := strconv.ParseFloat(strings.TrimSuffix(text, " kB"), 64)
	if err != nil {
		return 0, fmt.Errorf("the peak of memory is measured on Linux only: %w", err)
	}
	return size / 1024, nil
}
