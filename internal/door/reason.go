package door

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"
)

// Reason is why a connection was turned away. The set is closed: reasons are labels of metrics.
type Reason string

// The reasons.
const (
	AddressFailures Reason = "address_failures" // too many failed handshakes of its address: closed before TLS work
	HolderFull      Reason = "holder_full"      // its certificate, or its address, has as many connections as it may
	ListenerFull    Reason = "listener_full"
	CrowdedOut      Reason = "crowded_out" // it was idle the longest when room was needed
	Flood           Reason = "flood"       // it sent more than its requests account for, or reset most of them
	ProxyHeader     Reason = "proxy_header"
	Silent          Reason = "silent" // sent nothing
	Timeout         Reason = "timeout"
	Gone            Reason = "gone"        // closed by the client in the middle of the handshake
	NotTLS          Reason = "not_tls"     // what it sent is no TLS
	Certificate     Reason = "certificate" // its certificate is not good here
	Protocol        Reason = "protocol"    // anything else about the handshake: version, no certificate, signature
)

// Reasons lists them all.
func Reasons() []Reason {
	return []Reason{AddressFailures, HolderFull, ListenerFull, CrowdedOut, Flood, ProxyHeader, Silent, Timeout, Gone, NotTLS, Certificate, Protocol}
}

// Handshake reports whether the reason is about a handshake that was tried.
func (r Reason) Handshake() bool {
	switch r {
	case Silent, Timeout, Gone, NotTLS, Certificate, Protocol, ProxyHeader:
		return true
	}
	return false
}

// Untrusted marks the error of a tls.Config's VerifyConnection: the client's certificate is not good here.
type Untrusted struct{ Err error }

func (u *Untrusted) Error() string { return u.Err.Error() }

// Unwrap gives what is wrong with it.
func (u *Untrusted) Unwrap() error { return u.Err }

func reasonOf(err error, c *Conn) Reason {
	var (
		record    tls.RecordHeaderError
		untrusted *Untrusted
		network   net.Error
	)
	switch {
	case !c.sent():
		return Silent
	case errors.As(err, &untrusted):
		return Certificate
	case errors.As(err, &record):
		return NotTLS
	case errors.As(err, &network) && network.Timeout():
		return Timeout
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return Gone
	}
	return Protocol
}
