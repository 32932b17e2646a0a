package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

const maxSecretBytes = 64 << 10

// stdin hands out standard input, once: a second reader would find it empty.
func (a *app) stdin(cmd *cobra.Command, name string) (io.Reader, error) {
	if a.stdinTaken != "" {
		return nil, misuse(cmd, "%s and %s cannot both read standard input", a.stdinTaken, name)
	}
	a.stdinTaken = name
	return a.env.Stdin, nil
}

// source is an opened FILE argument. Its errors are faults that name it, so that they are still that when they come
// back out of a request.
type source struct {
	io.Reader
	io.Closer
	name string
}

func (s source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // io.Reader: EOF comes bare
		err = unreadable(s.name, err)
	}
	return n, err
}

// open opens what an argument named FILE means: a file, or - for standard input.
func (a *app) open(cmd *cobra.Command, name, value string) (io.ReadCloser, error) {
	if value == "-" {
		in, err := a.stdin(cmd, name)
		if err != nil {
			return nil, err
		}
		return source{in, io.NopCloser(nil), "standard input"}, nil
	}
	f, err := os.Open(value)
	if err != nil {
		return nil, unreadable(value, err)
	}
	if st, err := f.Stat(); err != nil || st.IsDir() {
		f.Close()
		if err == nil {
			err = errors.New("it is a directory")
		}
		return nil, unreadable(value, err)
	}
	return source{f, f, value}, nil
}

// read reads at most limit bytes of what a FILE argument means, and one more when there are more.
func (a *app) read(cmd *cobra.Command, name, value string, limit int64) ([]byte, error) {
	in, err := a.open(cmd, name, value)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return patiently(cmd.Context(), func() ([]byte, error) { return io.ReadAll(io.LimitReader(in, limit+1)) })
}

// patiently waits for a read that may be one of a terminal, and gives up when ctx ends: the read cannot be
// cancelled, but the program can end without it.
func patiently(ctx context.Context, read func() ([]byte, error)) ([]byte, error) {
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		data, err := read()
		done <- result{data, err}
	}()
	select {
	case r := <-done:
		return r.data, r.err
	case <-ctx.Done():
		return nil, errInterrupted
	}
}

func unreadable(name string, err error) error {
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		err = pe.Err
	}
	return errFileUnreadable.With("%s cannot be read: %s", name, err)
}

// secretSource says where a secret is. Its value is -, @FILE, FILE or the secret itself.
type secretSource struct {
	name    string // of the argument
	kind    string // of the secret, with an article
	value   string
	literal func(value string) bool // whether a value is the secret itself
	spaced  bool                    // it may be of several words
}

// secret reads a secret. Errors never repeat a value that could be one.
func (a *app) secret(cmd *cobra.Command, s secretSource) (string, error) {
	path, marked := strings.CutPrefix(s.value, "@")
	switch {
	case s.value == "-":
		raw, err := a.secretFromStdin(cmd, s)
		if err != nil {
			return "", err
		}
		return s.check("standard input", raw)
	case !marked && s.literal(s.value):
		return s.check(s.name, []byte(s.value))
	case !marked:
		if _, err := os.Stat(path); err != nil {
			return "", errFileUnreadable.With("%s is neither %s nor a file that can be read", s.name, s.kind)
		}
	}
	raw, err := a.read(cmd, s.name, path, maxSecretBytes)
	if err != nil {
		return "", err
	}
	return s.check(path, raw)
}

// check holds what was read to visible ASCII, and to one word, which is what tokens and URLs are.
func (s secretSource) check(from string, raw []byte) (string, error) {
	word := strings.TrimSpace(string(raw))
	if word == "" || len(raw) > maxSecretBytes || strings.ContainsFunc(word, func(r rune) bool { return r < ' ' || r == ' ' && !s.spaced || r > '~' }) {
		return "", errSecretUnreadable.With("%s does not hold %s", from, s.kind)
	}
	return word, nil
}

// secretFromStdin asks for the secret, without showing it, when standard input is a terminal.
func (a *app) secretFromStdin(cmd *cobra.Command, s secretSource) ([]byte, error) {
	file, ok := a.env.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return a.read(cmd, s.name, "-", maxSecretBytes)
	}
	if _, err := a.stdin(cmd, s.name); err != nil {
		return nil, err
	}
	show, err := hideTyping(int(file.Fd()))
	if err != nil {
		return nil, unreadable("standard input", err)
	}
	defer show() // also of an abandoned read
	fmt.Fprintf(a.env.Stderr, "%s: ", s.name)
	defer fmt.Fprintln(a.env.Stderr)
	line, err := patiently(cmd.Context(), func() ([]byte, error) {
		return bufio.NewReader(io.LimitReader(file, maxSecretBytes+1)).ReadBytes('\n')
	})
	switch {
	case errors.Is(err, errInterrupted):
		return nil, err
	case err != nil && !errors.Is(err, io.EOF):
		return nil, unreadable("standard input", err)
	}
	return line, nil
}

// hideTyping stops a terminal from showing what is typed, and returns what undoes that. It is not
// term.ReadPassword, which changes the terminal and reads in one go: an interrupt could then be undone before it
// was done, and leave the shell mute.
func hideTyping(fd int) (show func(), err error) {
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	quiet := *before
	quiet.Lflag = quiet.Lflag&^unix.ECHO | unix.ICANON | unix.ISIG
	quiet.Iflag |= unix.ICRNL
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &quiet); err != nil {
		return nil, err
	}
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, before) }, nil
}
