package portainer

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/mosaicstack/gateway/internal/portainer/portainertest"
)

// all reads a log to its end.
func all(c chunks) (out []chunk, err error) {
	for {
		part, err := c.next()
		if err != nil {
			return out, err
		}
		part.text = bytes.Clone(part.text)
		out = append(out, part)
	}
}

func TestFramesAreReadHoweverTheyAreCut(t *testing.T) {
	t.Parallel()
	want := []chunk{{1, []byte("one\n"), 0}, {2, []byte("\x1b[31mzwei\x00\n"), 0}, {1, []byte{}, 0}, {3, []byte("gone"), 0}, {0, []byte("in"), 0}}
	var stream []byte
	ends := map[int]int{0: 0} // where a message ends, and how many there are by then
	for i, c := range want {
		stream = append(stream, portainertest.Frame(c.stream, string(c.text))...)
		ends[len(stream)] = i + 1
	}
	for n := range len(stream) + 1 {
		// In two pieces, which make no difference.
		got, err := all(newFrames(io.MultiReader(bytes.NewReader(stream[:n]), bytes.NewReader(stream[n:]))))
		if !errors.Is(err, io.EOF) || !same(got, want) {
			t.Fatalf("cut at byte %d: %v, %v", n, got, err)
		}
		// Without the second one: what is whole is read, and that the rest is missing is told.
		got, err = all(newFrames(bytes.NewReader(stream[:n])))
		count, whole := ends[n]
		if whole != errors.Is(err, io.EOF) || whole == errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("ended at byte %d: %v", n, err)
		}
		if !whole {
			count = len(got)
		}
		if !same(got, want[:count]) {
			t.Errorf("ended at byte %d: %v", n, got)
		}
	}
	if got, err := all(newFrames(iotest.OneByteReader(bytes.NewReader(stream)))); !errors.Is(err, io.EOF) || !same(got, want) {
		t.Errorf("byte by byte: %v, %v", got, err)
	}
}

func same(a, b []chunk) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].stream != b[i].stream || a[i].cut != b[i].cut || !bytes.Equal(a[i].text, b[i].text) {
			return false
		}
	}
	return true
}

// zeros is an endless body.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestAHugeFrameTakesNoMoreMemoryThanALongOne(t *testing.T) {
	t.Parallel()
	const size = 64 << 20
	header := []byte{1, 0, 0, 0, size >> 24, size >> 16 & 255, size >> 8 & 255, size & 255}
	f := newFrames(io.MultiReader(bytes.NewReader(header), io.LimitReader(zeros{}, size), bytes.NewReader(portainertest.Frame(1, "next"))))
	part, err := f.next()
	if err != nil || len(part.text) != maxChunk || part.cut != size-maxChunk || cap(f.buf) > 2*maxChunk {
		t.Fatalf("%d bytes kept in a buffer of %d, %d cut, %v", len(part.text), cap(f.buf), part.cut, err)
	}
	if part, err = f.next(); err != nil || string(part.text) != "next" {
		t.Errorf("behind it: %q, %v", part.text, err)
	}
	// A length that is promised and does not come.
	f = newFrames(strings.NewReader("\x01\x00\x00\x00\xff\xff\xff\xffshort"))
	if _, err := f.next(); !errors.Is(err, io.ErrUnexpectedEOF) || cap(f.buf) > 2*maxChunk {
		t.Errorf("4 GiB that do not come: %v, in a buffer of %d", err, cap(f.buf))
	}
}

func TestWhatIsNoFrameIsRefused(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"<html><body>502", "\x04\x00\x00\x00\x00\x00\x00\x00", "\x01\x01\x00\x00\x00\x00\x00\x01a", "2026-03-01T12:00:00Z text"} {
		if _, err := newFrames(strings.NewReader(body)).next(); !errors.Is(err, ErrLogMalformed) {
			t.Errorf("%q: %v", body, err)
		}
	}
}

func TestALogOfATerminalIsReadByLines(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxChunk+100)
	got, err := all(newRawLines(strings.NewReader("one\r\n\n" + long + "\nlast")))
	want := []chunk{{1, []byte("one\r\n"), 0}, {1, []byte("\n"), 0}, {1, []byte(long[:maxChunk]), 101}, {1, []byte("last"), 0}}
	if !errors.Is(err, io.EOF) || !same(got, want) {
		t.Errorf("%d chunks, %v", len(got), err)
	}
}

func TestTimeAndTaskAreTakenFromAMessage(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC)
	for text, want := range map[string]message{
		portainertest.Message("2026-03-01T12:00:00.000000005Z", "t/1", "a b"):                      {at, "t/1", "n1", []byte("a b\n")},
		portainertest.Message("2026-03-01T13:00:00.000000005+01:00", "t", ""):                      {at, "t", "n1", []byte("\n")},
		"2026-03-01T12:00:00.000000005Z no details":                                                {at: at, text: []byte("no details")},
		"2026-03-01T12:00:00.000000005Z com.docker.swarm.task.id=%zz,com.docker.swarm.node.id=n x": {at: at, node: "n", text: []byte("x")},
		"yesterday com.docker.swarm.task.id=t x":                                                   {text: []byte("yesterday com.docker.swarm.task.id=t x")},
		"":                                                                                         {text: []byte{}},
	} {
		got := parse([]byte(text))
		if !got.at.Equal(want.at) || got.task != want.task || got.node != want.node || !bytes.Equal(got.text, want.text) {
			t.Errorf("%q is %+v, want %+v", text, got, want)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(append(portainertest.Frame(1, "one\n"), portainertest.Frame(2, portainertest.Message("2026-03-01T12:00:00Z", "t", "two"))...), uint8(3))
	f.Add([]byte("\x01\x00\x00\x00\xff\xff\xff\xff"), uint8(0))
	f.Add([]byte("\x03\x00\x00\x00\x00\x00\x00\x02no\x01"), uint8(9))
	f.Fuzz(func(t *testing.T, body []byte, at uint8) {
		got, err := all(newFrames(bytes.NewReader(body)))
		if err == nil || !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, ErrLogMalformed) {
			t.Fatalf("ended with %v", err)
		}
		// How the bytes arrive makes no difference.
		n := min(int(at), len(body))
		again, errAgain := all(newFrames(io.MultiReader(bytes.NewReader(body[:n]), iotest.OneByteReader(bytes.NewReader(body[n:])))))
		if !same(got, again) || errors.Is(err, io.EOF) != errors.Is(errAgain, io.EOF) {
			t.Errorf("in pieces: %v, %v; at once: %v, %v", again, errAgain, got, err)
		}
		// Written again they are the same bytes, as far as they were read.
		var back []byte
		for _, c := range got {
			if len(c.text) > maxChunk {
				t.Errorf("%d bytes of one message were kept", len(c.text))
			}
			back = append(back, portainertest.Frame(c.stream, string(c.text))...)
			parse(c.text)
		}
		if !bytes.HasPrefix(body, back) || errors.Is(err, io.EOF) && len(back) != len(body) {
			t.Errorf("%q was read as %v, and ended with %v", body, got, err)
		}
		if _, err := all(newRawLines(bytes.NewReader(body))); !errors.Is(err, io.EOF) {
			t.Errorf("as lines it ended with %v", err)
		}
	})
}

func TestWhatWasReadIsKnownAgain(t *testing.T) {
	t.Parallel()
	at := func(n int) time.Time { return time.Unix(int64(n), 0) }
	s := seen{}
	for _, n := range []int{1, 2, 2, 3, 3} { // two parts of one line have the same time
		if !s.accept("a", at(n)) {
			t.Errorf("%d was not new", n)
		}
	}
	for range 2 { // even when it breaks before there is anything new
		if got := s.rewind(); !got.Equal(at(3)) {
			t.Errorf("the newest is of %v", got)
		}
		for _, n := range []int{1, 2, 2, 3, 3} {
			if s.accept("a", at(n)) {
				t.Errorf("%d was new again", n)
			}
		}
	}
	if !s.accept("a", at(3)) || !s.accept("b", at(1)) || !s.accept("a", at(4)) {
		t.Error("what is new was known: a third part, another task, a later time")
	}
	s.rewind()
	if s.accept("a", at(3)) || s.accept("b", at(1)) || s.accept("a", at(4)) || !s.accept("a", at(5)) {
		t.Error("after a second loss it is another")
	}
}
