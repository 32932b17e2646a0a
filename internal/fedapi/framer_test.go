package fedapi_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"testing"
	"time"

	h2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// framer is a client of HTTP/2 that sends whatever frames it is told to.
type framer struct {
	*h2.Framer
	t        *testing.T
	conn     *tls.Conn
	sent     counter
	block    bytes.Buffer
	encoder  *hpack.Encoder
	statuses map[uint32]string
	resets   map[uint32]h2.ErrCode
	goAway   *h2.ErrCode
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

func (g *gateway) framer(cert *tls.Certificate) *framer {
	g.t.Helper()
	f := &framer{t: g.t, conn: g.mustDial("127.0.0.1", cert, "h2"), statuses: map[uint32]string{}, resets: map[uint32]h2.ErrCode{}}
	f.sent.w = f.conn
	f.Framer = h2.NewFramer(&f.sent, f.conn)
	f.AllowIllegalWrites = true
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.encoder = hpack.NewEncoder(&f.block)
	if _, err := io.WriteString(&f.sent, h2.ClientPreface); err != nil {
		g.t.Fatal(err)
	}
	if err := f.WriteSettings(); err != nil {
		g.t.Fatal(err)
	}
	return f
}

// headers is the header block of a GET.
func (f *framer) headers(path string, more ...hpack.HeaderField) []byte {
	f.block.Reset()
	fields := append([]hpack.HeaderField{
		{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: "x"}, {Name: ":path", Value: path},
	}, more...)
	for _, h := range fields {
		_ = f.encoder.WriteField(h)
	}
	return f.block.Bytes()
}

// get asks on a stream.
func (f *framer) get(stream uint32, path string, more ...hpack.HeaderField) {
	f.t.Helper()
	if err := f.tryGet(stream, path, more...); err != nil {
		f.t.Fatal(err)
	}
}

func (f *framer) tryGet(stream uint32, path string, more ...hpack.HeaderField) error {
	return f.WriteHeaders(h2.HeadersFrameParam{StreamID: stream, BlockFragment: f.headers(path, more...), EndHeaders: true, EndStream: true})
}

// read reads one frame and keeps what it says.
func (f *framer) read() error {
	frame, err := f.ReadFrame()
	if err != nil {
		return err
	}
	switch frame := frame.(type) {
	case *h2.MetaHeadersFrame:
		f.statuses[frame.StreamID] = frame.PseudoValue("status")
	case *h2.RSTStreamFrame:
		f.resets[frame.StreamID] = frame.ErrCode
	case *h2.GoAwayFrame:
		code := frame.ErrCode
		f.goAway = &code
	case *h2.SettingsFrame:
		if !frame.IsAck() {
			return f.WriteSettingsAck()
		}
	}
	return nil
}

// wait reads until something is so, and fails when the connection ends before.
func (f *framer) wait(so func() bool) {
	f.t.Helper()
	for !so() {
		if err := f.read(); err != nil {
			f.t.Fatalf("%v; statuses %v, resets %v", err, f.statuses, f.resets)
		}
	}
}

// status waits for the answer to a stream, and gives its status.
func (f *framer) status(stream uint32) string {
	f.t.Helper()
	f.wait(func() bool { return f.statuses[stream] != "" })
	return f.statuses[stream]
}

// drain throws away what comes, until the connection ends.
func (f *framer) drain() { _, _ = io.Copy(io.Discard, f.conn) }

// flood writes until the server ends the connection or most bytes are sent. Reports whether it was ended.
func (f *framer) flood(most int64, write func() error) bool {
	_ = f.conn.SetWriteDeadline(time.Now().Add(patience))
	for f.sent.n < most {
		if err := write(); err != nil {
			var timeout interface{ Timeout() bool }
			return !errors.As(err, &timeout) || !timeout.Timeout()
		}
	}
	return false
}
