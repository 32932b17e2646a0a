package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
)

// Salted gives an AEAD whose key is derived from the keyring and a salt (RFC 5869, HKDF-SHA256), for what must be
// unreadable once the salt is forgotten, even to who holds the keyset. The salt is random, of 32 bytes, and not stored
// anywhere else. The key is the same on every replica, and stays the same when keys are added to the keyset. It is
// AES-256-GCM with random nonces: at most 2^32 values are sealed under one salt.
func (k *Keyring) Salted(purpose string, salt []byte) (cipher.AEAD, error) {
	const size = 32
	if len(salt) < size {
		return nil, fmt.Errorf("seal: a salt of %d bytes is too short", len(salt))
	}
	derived, err := hkdf.Key(sha256.New, k.MAC("salted root", nil), salt, string(associate("salted/v1", purpose)), size)
	if err != nil {
		return nil, fmt.Errorf("seal: derive a key: %w", err)
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, fmt.Errorf("seal: derive a key: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Salted is Keyring.Salted of the present keyring.
func (r *Ring) Salted(purpose string, salt []byte) (cipher.AEAD, error) {
	return r.current.Load().Salted(purpose, salt)
}
