package postgres

import (
	"bufio"
	"context"
	"net"
)

// readAhead is how much is read from the server at once. The driver asks for 8 kB at a time; a page of rows is more, and
// most of it is there when the first part is.
const readAhead = 32 << 10

// conn is a connection to the server that reads ahead.
type conn struct {
	net.Conn
	r *bufio.Reader
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) { return c.r.Read(b) }

// readingAhead makes the connections of a dialer read ahead.
func readingAhead(dial func(ctx context.Context, network, address string) (net.Conn, error)) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &conn{Conn: c, r: bufio.NewReaderSize(c, readAhead)}, nil
	}
}
