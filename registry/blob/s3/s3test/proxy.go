package s3test

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/onsi/gomega"
)

// Proxy stands between a store and a server, and does to the connection what networks do.
type Proxy struct {
	// Address is where the store finds it.
	Address  string
	listener net.Listener
	server   string

	mu    sync.Mutex
	moved *sync.Cond
	mode  mode
	conns map[net.Conn]bool
}

type mode int

const (
	passing mode = iota
	stalled
	refusing
)

// NewProxy starts a proxy to a server for a test.
func NewProxy(t T, server *Server) *Proxy {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	gomega.NewWithT(t).Expect(err).NotTo(gomega.HaveOccurred())
	p := &Proxy{Address: listener.Addr().String(), listener: listener, server: server.Address, conns: map[net.Conn]bool{}}
	p.moved = sync.NewCond(&p.mu)
	var all sync.WaitGroup
	all.Go(func() { p.accept(&all) })
	t.Cleanup(func() {
		_ = listener.Close()
		p.set(refusing)
		all.Wait()
	})
	return p
}

// Stall keeps every byte, in both directions, till Pass.
func (p *Proxy) Stall() { p.set(stalled) }

// Refuse breaks the connections, and all new ones, till Pass.
func (p *Proxy) Refuse() { p.set(refusing) }

// Pass lets everything through, beginning with what was kept.
func (p *Proxy) Pass() { p.set(passing) }

func (p *Proxy) set(m mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = m
	if m == refusing {
		for conn := range p.conns {
			_ = conn.Close()
		}
	}
	p.moved.Broadcast()
}

// wait waits while the proxy stalls, and reports whether bytes may pass.
func (p *Proxy) wait() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.mode == stalled {
		p.moved.Wait()
	}
	return p.mode == passing
}

func (p *Proxy) accept(all *sync.WaitGroup) {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		all.Go(func() { p.connect(client, all) })
	}
}

func (p *Proxy) connect(client net.Conn, all *sync.WaitGroup) {
	server, err := new(net.Dialer).DialContext(context.Background(), "tcp", p.server)
	if err != nil {
		_ = client.Close()
		return
	}
	p.mu.Lock()
	refused := p.mode == refusing
	p.conns[client], p.conns[server] = true, true
	p.mu.Unlock()
	if refused {
		_ = errors.Join(client.Close(), server.Close())
	}
	all.Go(func() { p.copy(server, client) })
	p.copy(client, server)
}

func (p *Proxy) copy(to, from net.Conn) {
	defer func() {
		_ = errors.Join(to.Close(), from.Close())
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, to)
		delete(p.conns, from)
	}()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil || !p.wait() {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}
