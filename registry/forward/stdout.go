package forward

import (
	"bytes"
	"context"
	"fmt"
	"io"
)

// lines writes a line of JSON for each entry.
type lines struct {
	out io.Writer
	// busy is taken while somebody writes: a write that nobody reads outlives its context.
	busy chan struct{}
}

func newLines(out io.Writer) *lines { return &lines{out: out, busy: make(chan struct{}, 1)} }

func (l *lines) send(ctx context.Context, batch []Entry) error {
	var text bytes.Buffer
	for _, e := range batch {
		line, err := e.line()
		if err != nil {
			return err
		}
		text.Write(line)
	}
	select {
	case l.busy <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	done := make(chan error, 1)
	go func() {
		_, err := l.out.Write(text.Bytes())
		<-l.busy
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("standard output: %w", err)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
