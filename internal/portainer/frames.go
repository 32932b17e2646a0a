package portainer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"
)

// maxChunk is how much of one message is kept. Docker itself cuts what a container writes at 16 KiB.
const maxChunk = 64 << 10

// The streams a container writes to, and the one Docker reports on.
const (
	streamStdin  = 0 // is written to stdout, says Docker's documentation
	streamStdout = 1
	streamStderr = 2
	streamSystem = 3 // Docker could not go on reading
)

// chunk is one message of a log. text is valid until the next one is read.
type chunk struct {
	stream byte
	text   []byte
	cut    int64 // bytes that did not fit
}

// chunks is a log on its way, in either of the forms that Docker writes. The error at its end is io.EOF, or
// io.ErrUnexpectedEOF when it ends within a message, which is not given out.
type chunks interface{ next() (chunk, error) }

// frames reads the multiplexed form, of containers without a terminal: a header of the stream's number, three zeros
// and the length in four bytes, big endian, and then the message.
type frames struct {
	r   io.Reader
	buf []byte
}

func newFrames(r io.Reader) *frames { return &frames{r: bufio.NewReaderSize(r, 32<<10)} }

func (f *frames) next() (chunk, error) {
	var header [8]byte
	if _, err := io.ReadFull(f.r, header[:]); err != nil {
		return chunk{}, err // io.EOF between two messages, io.ErrUnexpectedEOF within
	}
	if header[0] > streamSystem || header[1]|header[2]|header[3] != 0 {
		return chunk{}, ErrLogMalformed.Because(fmt.Errorf("a message's header is % x", header))
	}
	size := int64(binary.BigEndian.Uint32(header[4:]))
	keep := min(size, maxChunk) // and not what the header asks for
	if int64(cap(f.buf)) < keep {
		f.buf = make([]byte, keep)
	}
	text := f.buf[:keep]
	if _, err := io.ReadFull(f.r, text); err != nil {
		return chunk{}, within(err)
	}
	if _, err := io.CopyN(io.Discard, f.r, size-keep); err != nil {
		return chunk{}, within(err)
	}
	return chunk{header[0], text, size - keep}, nil
}

func within(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// rawLines reads the plain form, of containers with a terminal. There is only one stream then, and lines are all that
// tells messages apart.
type rawLines struct{ r *bufio.Reader }

func newRawLines(r io.Reader) *rawLines { return &rawLines{bufio.NewReaderSize(r, maxChunk)} }

func (l *rawLines) next() (chunk, error) {
	text, err := l.r.ReadSlice('\n')
	out := chunk{stream: streamStdout, text: text}
	if errors.Is(err, bufio.ErrBufferFull) {
		out.text = bytes.Clone(text)
		for errors.Is(err, bufio.ErrBufferFull) {
			text, err = l.r.ReadSlice('\n')
			out.cut += int64(len(text))
		}
	}
	switch {
	case err == nil:
		return out, nil
	case errors.Is(err, io.EOF) && len(out.text) > 0:
		return out, nil // a last line without an end; the next call says io.EOF
	}
	return chunk{}, err
}

// message is what Docker puts before a message when it is asked for times and details.
type message struct {
	at         time.Time // zero when there is none
	task, node string
	text       []byte
}

const swarmPrefix = "com.docker.swarm."

func parse(text []byte) message {
	whole := message{text: text}
	stamp, rest, ok := bytes.Cut(text, []byte{' '})
	if !ok {
		return whole
	}
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return whole
	}
	m := message{at: at.UTC(), text: rest}
	details, rest, ok := bytes.Cut(rest, []byte{' '})
	if !ok || !bytes.Contains(details, []byte(swarmPrefix+"task.id=")) {
		return m
	}
	m.text = rest
	for pair := range strings.SplitSeq(string(details), ",") {
		name, value, _ := strings.Cut(pair, "=")
		value, err := url.QueryUnescape(value)
		if err != nil {
			continue
		}
		switch name {
		case swarmPrefix + "task.id":
			m.task = value
		case swarmPrefix + "node.id":
			m.node = value
		}
	}
	return m
}
