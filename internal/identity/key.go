package identity

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"fmt"

	"github.com/mosaicstack/gateway/internal/fault"
)

// The RSA keys that are accepted. The upper bounds keep one signature check cheap: its cost grows with the
// square of the modulus and with the exponent, and whoever sends the key chooses both.
const (
	minRSABits     = 3072
	maxRSABits     = 8192
	minRSAExponent = 65537 // FIPS 186-5, A.1.1
	maxRSAExponent = 1<<31 - 1
)

// ErrPublicKey is the fault of a key that no federation certificate may carry.
var ErrPublicKey = &fault.Fault{
	Kind:   fault.Invalid,
	Code:   "public_key_refused",
	Detail: "the public key is of a kind that is not accepted",
	Hint:   "use a P-256, P-384 or Ed25519 key, or RSA of 3072 bits or more",
}

// CheckPublicKey accepts P-256, P-384, Ed25519, and RSA from 3072 to 8192 bits with a sane exponent. The error
// is ErrPublicKey and says which rule the key breaks.
func CheckPublicKey(pub any) error {
	if problem := keyProblem(pub); problem != "" {
		return ErrPublicKey.With("%s", problem)
	}
	return nil
}

// keyProblem says in one clause what is wrong with a key, or nothing.
func keyProblem(pub any) string {
	switch key := pub.(type) {
	case *ecdsa.PublicKey:
		if key == nil || key.Curve == nil {
			return "the key is missing"
		}
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
			return fmt.Sprintf("the elliptic curve is %s, only P-256 and P-384 are accepted", key.Curve.Params().Name)
		}
	case ed25519.PublicKey:
		if len(key) != ed25519.PublicKeySize {
			return fmt.Sprintf("the Ed25519 key has %d bytes instead of %d", len(key), ed25519.PublicKeySize)
		}
	case *rsa.PublicKey:
		return rsaProblem(key)
	case nil:
		return "the key is missing or of an unknown algorithm"
	default:
		return fmt.Sprintf("the key type %T is not accepted", pub)
	}
	return ""
}

func rsaProblem(key *rsa.PublicKey) string {
	if key == nil || key.N == nil || key.N.Sign() <= 0 {
		return "the key is missing"
	}
	switch bits := key.N.BitLen(); {
	case bits < minRSABits:
		return fmt.Sprintf("the RSA key has %d bits, at least %d are needed", bits, minRSABits)
	case bits > maxRSABits:
		return fmt.Sprintf("the RSA key has %d bits, at most %d are accepted", bits, maxRSABits)
	case key.N.Bit(0) == 0:
		return "the RSA modulus is even"
	case key.E < minRSAExponent || key.E > maxRSAExponent || key.E%2 == 0:
		return fmt.Sprintf("the RSA exponent is %d, an odd one from %d is needed", key.E, minRSAExponent)
	}
	return ""
}
