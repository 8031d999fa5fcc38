package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopTimeout is how long a program may take to finish before it is killed. The operator's registry finishes the
// requests that run; a person who pressed Ctrl-C does not wait for an upload of an hour.
const stopTimeout = 8 * time.Second

// processes are the programs that were started, in this order; they are stopped the other way round.
type processes struct {
	// dir is the folder of their logs.
	dir string

	mu      sync.Mutex
	running []*process
	death   chan error
	// before and after are called by stop.
	before, after []func() error
}

type process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
	// stopping is set before it is asked to end: to end otherwise is a failure.
	stopping bool
}

// start starts a program with its output in a log of its own.
func (p *processes) start(name, program string, args ...string) error {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(p.dir, name+".log")
	log, err := os.Create(path)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own, so that Ctrl-C reaches this program only, which then stops them in order.
	cmd.SysProcAttr = attributes()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	one := &process{name: name, log: path, cmd: cmd, done: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = append(p.running, one)
	go func() {
		_ = cmd.Wait() // the state says how it ended
		close(one.done)
		p.mu.Lock()
		defer p.mu.Unlock()
		if !one.stopping {
			select {
			case p.deaths() <- fmt.Errorf("%s ended: %s\n%s", name, cmd.ProcessState, tail(path)):
			default: // one reason is enough
			}
		}
	}()
	return nil
}

func (p *processes) deaths() chan error {
	if p.death == nil {
		p.death = make(chan error, 1)
	}
	return p.death
}

// died gets the error of a program that ended by itself.
func (p *processes) died() <-chan error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.deaths()
}

// idle reports whether nothing was started.
func (p *processes) idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.running) == 0 && len(p.before) == 0
}

// beforeStop has fn called when everything is about to end and still runs.
func (p *processes) beforeStop(fn func() error) { p.before = append(p.before, fn) }

// afterStop has fn called when everything has ended.
func (p *processes) afterStop(fn func() error) { p.after = append(p.after, fn) }

// stop ends all programs, the last one first.
func (p *processes) stop() error {
	var errs []error
	for _, fn := range p.before {
		errs = append(errs, fn())
	}
	p.mu.Lock()
	running := slices.Clone(p.running)
	for _, one := range running {
		one.stopping = true
	}
	p.mu.Unlock()
	for _, one := range slices.Backward(running) {
		_ = one.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-one.done:
		case <-time.After(stopTimeout):
			errs = append(errs, fmt.Errorf("%s did not end within %s and was killed; its log is %s", one.name, stopTimeout, one.log))
			_ = one.cmd.Process.Kill()
			<-one.done
		}
	}
	for _, fn := range p.after {
		errs = append(errs, fn())
	}
	return errors.Join(errs...)
}

// kill ends all programs at once.
func (p *processes) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.running {
		one.stopping = true
		_ = one.cmd.Process.Kill()
	}
}

// until calls ready until it returns nil, a program dies or the time is over.
func (p *processes) until(ctx context.Context, limit time.Duration, ready func(context.Context) error) error {
	deadline := time.After(limit)
	for {
		attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := ready(attempt)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case dead := <-p.died():
			return dead
		case <-deadline:
			return fmt.Errorf("not ready after %s: %w", limit, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// tail returns the last lines of a log.
func tail(path string) string {
	const lines = 15
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	list := strings.Split(string(bytes.TrimSpace(content)), "\n")
	return fmt.Sprintf("The end of %s:\n  %s", path, strings.Join(list[max(0, len(list)-lines):], "\n  "))
}
