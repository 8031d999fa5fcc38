package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// server is a registry that runs as a program of its own, on the loopback interface.
type server struct {
	url      string
	password string
	cmd      *exec.Cmd
	log      string
	ended    chan error
}

// startTidelock starts bin/tidelock as it comes: SQLite and files, with passwords and with its log.
func startTidelock(ctx context.Context, o options, name string) (*server, error) {
	dir := filepath.Join(o.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	const password = "measured"
	secret := filepath.Join(dir, "admin-password")
	if err := os.WriteFile(secret, []byte(password), 0o600); err != nil {
		return nil, err
	}
	return startServer(ctx, dir, password, "/readyz", func(address string) *exec.Cmd {
		return exec.Command(filepath.Join(o.bin, "tidelock"), "registry", "--data-dir", filepath.Join(dir, "data"), "--listen", address, "--admin-password-file", secret)
	})
}

// peerConfig takes the folder of its storage and its address. It has neither passwords nor logs to pay for.
const peerConfig = `version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage:
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
	s, err := startServer(ctx, dir, "", "/v2/", func(address string) *exec.Cmd {
		failed = os.WriteFile(config, fmt.Appendf(nil, peerConfig, filepath.Join(dir, "data"), address), 0o600)
		return exec.Command(filepath.Join(o.bin, "registry-peer"), "serve", config)
	})
	return s, errors.Join(failed, err)
}

func startServer(ctx context.Context, dir, password, health string, command func(address string) *exec.Cmd) (*server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return nil, err
	}
	s := &server{url: "http://" + address, password: password, log: filepath.Join(dir, "log"), ended: make(chan error, 1)}
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
	return s.cmd.ProcessState.UserTime() + s.cmd.ProcessState.SystemTime()
}
