// Package valkeytest runs a real Valkey for a test: on a private unix socket, with a password, keeping nothing.
package valkeytest

import (
	"bufio"
	"context"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Password is the server's. Each of its characters means something in a URL.
const Password = "p@ss/w:rd#%?&=+ é"

// Server is one valkey-server, ended with its test.
type Server struct {
	t   testing.TB
	dir string
	// Args are added to the command line of the next start; a later one overrides.
	Args []string
	cmd  *exec.Cmd
}

// Start runs a server as production does: nothing on disk, no eviction, a password.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	s := New(t, args...)
	s.Start()
	return s
}

// New describes a server; nothing runs yet, and its address answers nobody.
func New(t testing.TB, args ...string) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "mosaic-valkey-") // short: a socket is below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s := &Server{t: t, dir: dir, Args: args}
	t.Cleanup(s.Kill)
	return s
}

// URL is its address, with the password in it.
func (s *Server) URL() string {
	return (&url.URL{Scheme: "unix", User: url.UserPassword("", Password), Path: s.socket()}).String()
}

// URLWith is its address for somebody else.
func (s *Server) URLWith(user, password string) string {
	return (&url.URL{Scheme: "unix", User: url.UserPassword(user, password), Path: s.socket()}).String()
}

// URLPath is the path of its socket as a URL has it.
func (s *Server) URLPath() string { return (&url.URL{Path: s.socket()}).EscapedPath() }

func (s *Server) socket() string { return filepath.Join(s.dir, "valkey.sock") }

// Start runs the server and waits until it answers.
func (s *Server) Start() {
	s.t.Helper()
	_ = os.Remove(s.socket())
	args := append([]string{
		"--port", "0", "--unixsocket", s.socket(), "--unixsocketperm", "700", "--dir", s.dir, "--requirepass", Password,
		"--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction",
	}, s.Args...)
	s.cmd = exec.Command("valkey-server", args...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // a killed test leaves none behind
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("valkey-server: %v", err)
	}
	said := []string{}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said = append(said, lines.Text())
		if strings.Contains(lines.Text(), "eady to accept connections") {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return
		}
	}
	s.t.Fatalf("valkey-server ended: %v\n%s", s.cmd.Wait(), strings.Join(said, "\n"))
}

// Kill ends the server as kill -9 does, if it runs.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

// Hang stops the server without ending it: it takes connections and answers nothing.
func (s *Server) Hang() { s.signal(syscall.SIGSTOP) }

// Resume lets a hanging server go on.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// Do runs a command on the server, as its operator would.
func (s *Server) Do(args ...any) any {
	s.t.Helper()
	rdb := redis.NewClient(&redis.Options{Network: "unix", Addr: s.socket(), Password: Password})
	defer rdb.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	reply, err := rdb.Do(ctx, args...).Result()
	if err != nil {
		s.t.Fatalf("valkey: %v: %v", args[0], err)
	}
	return reply
}
