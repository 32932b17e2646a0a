package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// quiet is an error of a connection to a peer as it may stand in a log. The libraries below quote what the peer sent: a
// header that is none, the names in a certificate, a reason for hanging up. A peer that lies could so have its rows
// written down here. What is behind it can still be asked for with errors.Is and errors.As.
type quiet struct{ error }

// Unwrap gives what is behind it.
func (q quiet) Unwrap() error { return q.error }

// Error says what went wrong in words of this side.
func (q quiet) Error() string {
	var (
		errno     syscall.Errno
		alert     tls.AlertError
		operation *net.OpError
		name      *net.DNSError
		timeout   net.Error
	)
	switch {
	case errors.Is(q.error, context.Canceled), errors.Is(q.error, context.DeadlineExceeded):
		return "the time for it is over"
	case errors.As(q.error, &errno):
		return errno.Error()
	case errors.As(q.error, &name):
		return "the name cannot be resolved"
	case errors.As(q.error, &alert):
		return alert.Error()
	case errors.Is(q.error, io.EOF), errors.Is(q.error, io.ErrUnexpectedEOF):
		return "the connection ended"
	case errors.As(q.error, &timeout) && timeout.Timeout():
		return "nothing came in time"
	case errors.As(q.error, &operation):
		return operation.Op + " failed"
	}
	return certificate(q.error)
}

// certificate says what is wrong with a certificate, or of anything else of which kind it is.
func certificate(err error) string {
	var (
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &unknown):
		return "its certificate is of another authority"
	case errors.As(err, &hostname):
		return "its certificate is for another name"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate is not valid now"
	case errors.As(err, &invalid):
		return fmt.Sprintf("its certificate is not good (x509 reason %d)", invalid.Reason)
	}
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return fmt.Sprintf("%T", err)
		}
		err = inner
	}
}
