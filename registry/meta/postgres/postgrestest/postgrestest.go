// Package postgrestest runs a real PostgreSQL server for tests. Nothing is left of it when the process of the test ends,
// however that ends.
package postgrestest

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver
)

// startTimeout is how long the server may take to answer on a busy machine.
const startTimeout = time.Minute

// Server is a PostgreSQL server with a directory of its own. It listens on a socket in that directory only.
type Server struct {
	directory string
	binaries  string
	owner     *syscall.Credential
	keeper    *exec.Cmd
	stdin     io.WriteCloser

	mu        sync.Mutex
	databases map[string]bool
}

// Shared is the server of this process, started with the first call.
var Shared = sync.OnceValues(New)

// Database makes an empty database on the shared server and returns its DSN. The same key gets the same database again.
func Database(key string) (dsn string, err error) {
	server, err := Shared()
	if err != nil {
		return "", err
	}
	return server.Database(key)
}

// New starts a server.
func New() (*Server, error) {
	binaries, err := findBinaries()
	if err != nil {
		return nil, err
	}
	s := &Server{binaries: binaries, databases: map[string]bool{}}
	// Short, since the path of a socket is limited to about 100 bytes.
	if s.directory, err = os.MkdirTemp("", "pg"); err != nil {
		return nil, err
	}
	if err := s.initialize(); err != nil {
		_ = os.RemoveAll(s.directory)
		return nil, err
	}
	if err := s.Start(); err != nil {
		return nil, err
	}
	return s, nil
}

// findBinaries returns the directory of initdb and postgres.
func findBinaries() (string, error) {
	candidates, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.Sort(candidates)
	if path, err := exec.LookPath("postgres"); err == nil {
		// Debian's directory is not on the PATH; what is may be a link to one binary of it.
		if path, err = filepath.EvalSymlinks(path); err == nil {
			candidates = append(candidates, filepath.Dir(path))
		}
	}
	for _, directory := range slices.Backward(candidates) {
		_, noServer := os.Stat(filepath.Join(directory, "postgres"))
		_, noInit := os.Stat(filepath.Join(directory, "initdb"))
		if noServer == nil && noInit == nil {
			return directory, nil
		}
	}
	return "", errors.New("PostgreSQL's initdb and postgres are neither on the PATH nor in /usr/lib/postgresql/*/bin: install the Debian package postgresql")
}

// initialize makes the data directory. PostgreSQL refuses to run as root, so root gives it to another user.
func (s *Server) initialize() error {
	if os.Geteuid() == 0 {
		account, err := user.Lookup("postgres")
		if err != nil {
			account, err = user.Lookup("nobody")
		}
		if err != nil {
			return fmt.Errorf("root needs an unprivileged user to run PostgreSQL: %w", err)
		}
		uid, err := strconv.ParseUint(account.Uid, 10, 32)
		if err != nil {
			return err
		}
		gid, err := strconv.ParseUint(account.Gid, 10, 32)
		if err != nil {
			return err
		}
		s.owner = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(s.directory, int(uid), int(gid)); err != nil {
			return err
		}
	}
	initdb := s.command(filepath.Join(s.binaries, "initdb"), "--pgdata", s.data(), "--username", "postgres", "--auth", "trust",
		"--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions")
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	return nil
}

func (s *Server) data() string { return filepath.Join(s.directory, "data") }

func (s *Server) command(name string, args ...string) *exec.Cmd {
	command := exec.CommandContext(context.Background(), name, args...) //nolint:gosec // names of this package
	command.Dir = s.directory
	// In a group of its own, so that a Ctrl-C at the test does not reach it: the test's end does.
	command.SysProcAttr = &syscall.SysProcAttr{Credential: s.owner, Setpgid: true}
	return command
}

// keep runs the server and stops it by the signal that stdin names. When stdin ends, the test is gone: then nothing is
// left.
const keep = `directory=$1; shift
"$@" > "$directory/log" 2>&1 & server=$!
if read -r signal; then
  kill -s "$signal" "$server"; wait "$server"
else
  kill -s QUIT "$server"; wait "$server"; cd /; rm -rf "$directory"
fi`

// Start starts a stopped server, on the same data and the same socket.
func (s *Server) Start() error {
	// Durability against a crash of the machine is not what tests look at, and costs them much time.
	s.keeper = s.command("/bin/sh", "-c", keep, "keep", s.directory, filepath.Join(s.binaries, "postgres"), "-D", s.data(), "-k", s.directory,
		"-c", "listen_addresses=", "-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=400", "-c", "shared_buffers=64MB",
		"-c", "deadlock_timeout=200ms")
	var err error
	if s.stdin, err = s.keeper.StdinPipe(); err != nil {
		return err
	}
	if err := s.keeper.Start(); err != nil {
		return err
	}
	return s.await()
}

func (s *Server) await() error {
	db, err := sql.Open("pgx", s.DSN("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		err := db.PingContext(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(filepath.Join(s.directory, "log"))
			return fmt.Errorf("PostgreSQL does not answer: %w: %s", err, log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop ends the server at once, in the middle of what it does, and waits for its end. Start starts it again.
func (s *Server) Stop() error {
	if _, err := io.WriteString(s.stdin, "QUIT\n"); err != nil {
		return err
	}
	var exit *exec.ExitError
	if err := s.keeper.Wait(); err != nil && !errors.As(err, &exit) { // a server that is killed says so
		return err
	}
	return nil
}

// Close ends a server that runs, and removes its directory.
func (s *Server) Close() error {
	if err := s.stdin.Close(); err != nil {
		return err
	}
	return s.keeper.Wait()
}

// DSN names a database of the server.
func (s *Server) DSN(database string) string {
	return (&url.URL{Scheme: "postgres", Path: "/" + database, RawQuery: url.Values{"host": {s.directory}, "user": {"postgres"}}.Encode()}).String()
}

// Database makes an empty database and returns its DSN. The same key gets the same database again.
func (s *Server) Database(key string, options ...string) (dsn string, err error) {
	sum := sha256.Sum256([]byte(key))
	name := "t" + hex.EncodeToString(sum[:8])
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.databases[name] {
		return s.DSN(name), nil
	}
	statement := "CREATE DATABASE " + name
	for _, option := range options {
		statement += " " + option
	}
	if err := s.Exec("postgres", statement); err != nil {
		return "", err
	}
	s.databases[name] = true
	return s.DSN(name), nil
}

// Exec runs a statement in a database.
func (s *Server) Exec(database, statement string) error {
	db, err := sql.Open("pgx", s.DSN(database))
	if err != nil {
		return err
	}
	_, err = db.ExecContext(context.Background(), statement)
	return errors.Join(err, db.Close())
}
