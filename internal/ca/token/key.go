// Package token mints the one-time tokens that a Step-CA JWK provisioner signs on, and loads the key they are
// signed with. It is shared by the CA in process and the client of a remote one, so that both ask in the same way.
//
// A token is good for one attempt: it is bound to the certificate request, lives for a minute, carries a fresh
// random id, and the CA burns it even when signing fails.
package token

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"go.step.sm/crypto/jose"

	"github.com/mosaicstack/gateway/internal/ca"
)

// minRSABits is what JWS asks of RSA keys (RFC 7518, section 3.3).
const minRSABits = 2048

// Key is a provisioner's private key. It prints as [sealed].
type Key struct {
	id      string
	alg     jose.SignatureAlgorithm
	private any
	public  jose.JSONWebKey
}

// ParseKey loads a private JWK (RFC 7517), or one encrypted with a password: a JWE (RFC 7516) in its compact or
// its JSON form, as Step-CA keeps in encryptedKey. The password is not needed for a plain JWK.
//
// EC, Ed25519 and RSA keys are accepted. The error is ca.ErrKeyUnusable or ca.ErrPassword.
func ParseKey(data, password []byte) (*Key, error) {
	data = bytes.TrimSpace(data)
	if len(data) == 0 {
		return nil, ca.Refuse(ca.ErrKeyUnusable.With("the provisioner key is empty"), errors.New("no data"))
	}
	plain, err := decrypt(data, password)
	if err != nil {
		return nil, err
	}
	var jwk jose.JSONWebKey
	if err := json.Unmarshal(plain, &jwk); err != nil {
		// The cause of a JSON error may quote the key: it stays here.
		return nil, ca.Refuse(ca.ErrKeyUnusable.With("the provisioner key is not a JWK"), errors.New("not a JWK"))
	}
	return newKey(jwk)
}

// decrypt gives the JWK inside data. A JWK is told from a JWE by its kty, which every JWK has.
func decrypt(data, password []byte) ([]byte, error) {
	var probe struct {
		KeyType string `json:"kty"`
	}
	if json.Unmarshal(data, &probe) == nil && probe.KeyType != "" {
		return data, nil
	}
	jwe, err := jose.ParseEncrypted(string(data))
	if err != nil {
		return nil, ca.Refuse(ca.ErrKeyUnusable.With("the provisioner key is neither a JWK nor a JWE"), errors.New("not JOSE"))
	}
	if len(password) == 0 {
		return nil, ca.Refuse(ca.ErrPassword.With("the provisioner key is encrypted and no password is set"),
			errors.New("no password"))
	}
	plain, err := jwe.Decrypt(password)
	if err != nil {
		return nil, ca.Refuse(ca.ErrPassword, err)
	}
	return plain, nil
}

func newKey(jwk jose.JSONWebKey) (*Key, error) {
	unusable := func(format string, args ...any) error {
		detail := fmt.Sprintf(format, args...)
		return ca.Refuse(ca.ErrKeyUnusable.With("%s", detail), errors.New("key refused"))
	}
	if jwk.Use != "" && jwk.Use != "sig" {
		return nil, unusable("the provisioner key is for the use %q, not for signing", jwk.Use)
	}
	var natural jose.SignatureAlgorithm
	switch private := jwk.Key.(type) {
	case *ecdsa.PrivateKey:
		natural = ecAlgorithm(private.Curve)
	case ed25519.PrivateKey:
		natural = jose.EdDSA
	case *rsa.PrivateKey:
		if bits := private.N.BitLen(); bits < minRSABits {
			return nil, unusable("the provisioner key is RSA of %d bits, at least %d are needed", bits, minRSABits)
		}
		natural = jose.RS256
		if rsaAlgorithm(jwk.Algorithm) {
			natural = jose.SignatureAlgorithm(jwk.Algorithm)
		}
	case []byte:
		return nil, unusable("the provisioner key is symmetric: a JWK provisioner checks tokens with a public key, " +
			"so the CA answers 401 to anything signed with a shared secret or a password")
	default:
		if jwk.IsPublic() {
			return nil, unusable("the provisioner key is only the public half")
		}
		return nil, unusable("the provisioner key is of a kind that cannot sign tokens")
	}
	if natural == "" || !jwk.Valid() {
		return nil, unusable("the provisioner key is damaged or on an unknown curve")
	}
	if jwk.Algorithm != "" && jwk.Algorithm != string(natural) {
		return nil, unusable("the provisioner key says alg %q, which does not fit its type", jwk.Algorithm)
	}
	id := jwk.KeyID
	if id == "" {
		var err error
		if id, err = jose.Thumbprint(&jwk); err != nil {
			return nil, unusable("the provisioner key has no id and none can be derived")
		}
	}
	return &Key{id: id, alg: natural, private: jwk.Key, public: jwk.Public()}, nil
}

func ecAlgorithm(curve elliptic.Curve) jose.SignatureAlgorithm {
	switch curve {
	case elliptic.P256():
		return jose.ES256
	case elliptic.P384():
		return jose.ES384
	case elliptic.P521():
		return jose.ES512
	}
	return ""
}

func rsaAlgorithm(alg string) bool {
	switch jose.SignatureAlgorithm(alg) {
	case jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512:
		return true
	}
	return false
}

// ID is the key id that tokens carry as kid.
func (k *Key) ID() string { return k.id }

// Fits reports whether public, from a CA's list of provisioners, is the other half of k.
func (k *Key) Fits(public *jose.JSONWebKey) bool {
	if public == nil {
		return false
	}
	ours, err := jose.Thumbprint(&k.public)
	if err != nil {
		return false
	}
	theirs, err := jose.Thumbprint(public)
	return err == nil && ours == theirs
}

// Format keeps the key out of every fmt verb.
func (k *Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[sealed]")) }

// LogValue keeps the key out of logs.
func (k *Key) LogValue() slog.Value { return slog.StringValue("[sealed]") }
