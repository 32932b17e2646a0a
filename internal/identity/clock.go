package identity

import (
	"crypto/x509"
	"time"
)

// MaxBehind is what a clock may be behind the CA's. A new certificate begins when the CA says that it is now, less a
// minute; for a gateway whose clock is some minutes late it would be none until then.
const MaxBehind = 15 * time.Minute

// JudgedAt is the moment at which a certificate is checked by a clock that says now: its beginning, when that is
// little enough ahead to be the fault of clocks. It opens nothing early. Whoever has the certificate was given it by
// the CA, and whether it is accepted is said by the registry. Its end is where it is.
func JudgedAt(leaf *x509.Certificate, now time.Time) time.Time {
	if early := leaf.NotBefore.Sub(now); early > 0 && early <= MaxBehind {
		return leaf.NotBefore
	}
	return now
}
