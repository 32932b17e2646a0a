package seal

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/aead/aesgcm"
	"github.com/tink-crypto/tink-go/v2/aead/aesgcmsiv"
	"github.com/tink-crypto/tink-go/v2/aead/chacha20poly1305"
	"github.com/tink-crypto/tink-go/v2/aead/xaesgcm"
	"github.com/tink-crypto/tink-go/v2/aead/xchacha20poly1305"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	"github.com/tink-crypto/tink-go/v2/key"
	"github.com/tink-crypto/tink-go/v2/keyset"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
	"github.com/tink-crypto/tink-go/v2/secretdata"
)

const (
	maxKeysetBytes = 64 << 10
	minSecretBytes = 32
)

// Parse reads a cleartext Tink JSON keyset. Every key must be an AEAD key whose bytes are its whole material and
// must mark its ciphertexts (prefix TINK); others are refused, also when disabled. The error is a fault
// keyset_invalid that repeats nothing of the keyset.
func Parse(jsonKeyset []byte) (*Keyring, error) {
	if len(jsonKeyset) > maxKeysetBytes {
		return nil, ErrKeysetInvalid.With("the sealing keyset is over %d bytes long", maxKeysetBytes)
	}
	// The reader's own errors are dropped: they may quote the document.
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(jsonKeyset)))
	if err != nil {
		return nil, ErrKeysetInvalid.With("the sealing keyset is not a cleartext Tink JSON keyset")
	}
	return open(handle)
}

// Generate makes a keyring of one fresh AES-256-GCM key, and the JSON keyset that Parse takes. The JSON is the
// secret: write it with mode 0600 or into a secret store.
func Generate() (*Keyring, []byte, error) {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, nil, fmt.Errorf("seal: generate a key: %w", err)
	}
	var doc bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&doc)); err != nil {
		return nil, nil, fmt.Errorf("seal: print a keyset: %w", err)
	}
	ring, err := open(handle)
	if err != nil {
		return nil, nil, err
	}
	return ring, doc.Bytes(), nil
}

// Derive makes a keyring of one AES-256-GCM key from a long random secret (RFC 5869, HKDF-SHA256). The same secret
// always gives the same key under the same id. A secret under 32 bytes is a fault secret_too_short: HKDF does not
// slow down guessing.
func Derive(secret []byte) (*Keyring, error) {
	if len(secret) < minSecretBytes {
		return nil, ErrSecretTooShort
	}
	const size = 32
	derived, err := hkdf.Key(sha256.New, secret, nil, "mosaic seal v1 AES256-GCM key and id", size+4)
	if err != nil {
		return nil, fmt.Errorf("seal: derive a key: %w", err)
	}
	handle, err := handleOf(derived[:size], binary.BigEndian.Uint32(derived[size:])|1) // an id is never zero
	if err != nil {
		return nil, fmt.Errorf("seal: derive a key: %w", err)
	}
	return open(handle)
}

func handleOf(material []byte, id uint32) (*keyset.Handle, error) {
	params, err := aesgcm.NewParameters(aesgcm.ParametersOpts{
		KeySizeInBytes: len(material), IVSizeInBytes: 12, TagSizeInBytes: 16, Variant: aesgcm.VariantTink,
	})
	if err != nil {
		return nil, err
	}
	k, err := aesgcm.NewKey(secretdata.NewBytesFromData(material, insecuresecretdataaccess.Token{}), id, params)
	if err != nil {
		return nil, err
	}
	m := keyset.NewManager()
	if _, err := m.AddKey(k); err != nil {
		return nil, err
	}
	if err := m.SetPrimary(id); err != nil {
		return nil, err
	}
	return m.Handle()
}

func open(handle *keyset.Handle) (*Keyring, error) {
	for _, info := range handle.KeysetInfo().GetKeyInfo() {
		if info.GetOutputPrefixType() != tinkpb.OutputPrefixType_TINK {
			return nil, ErrKeysetInvalid.With("key %d of the sealing keyset has output prefix %s, not TINK",
				info.GetKeyId(), info.GetOutputPrefixType())
		}
	}
	root, err := rootOf(handle)
	if err != nil {
		return nil, err
	}
	primitive, err := aead.New(handle)
	if err != nil {
		return nil, ErrKeysetInvalid.With("the sealing keyset holds a key that cannot be used")
	}
	primary, err := handle.Primary()
	if err != nil {
		return nil, ErrKeysetInvalid.With("the sealing keyset has no enabled primary key")
	}
	return &Keyring{aead: primitive, primary: primary.KeyID(), mac: root}, nil
}

// rootOf derives the root of MAC from the first key of the keyset, which Tink keeps in the order they were added:
// adding keys, changing the primary and disabling the first one change nothing. It takes the raw key bytes, not
// their serialization, which a newer Tink may print otherwise.
func rootOf(handle *keyset.Handle) ([]byte, error) {
	var oldest []byte
	for i := range handle.Len() {
		entry, err := handle.Entry(i)
		if err != nil {
			return nil, ErrKeysetInvalid
		}
		material, err := materialOf(entry.Key())
		if err != nil {
			return nil, ErrKeysetInvalid.With("key %d of the sealing keyset is not an AEAD key that is taken here", entry.KeyID())
		}
		if oldest == nil {
			oldest = material
		}
	}
	root, err := hkdf.Key(sha256.New, oldest, nil, "mosaic seal v1 MAC root", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("seal: derive the MAC key: %w", err)
	}
	return root, nil
}

var errOtherKey = errors.New("not an AEAD key")

// materialOf lists the key types that are taken: AEAD keys of one part.
func materialOf(k key.Key) ([]byte, error) {
	var material secretdata.Bytes
	switch k := k.(type) {
	case *aesgcm.Key:
		material = k.KeyBytes()
	case *aesgcmsiv.Key:
		material = k.KeyBytes()
	case *xaesgcm.Key:
		material = k.KeyBytes()
	case *chacha20poly1305.Key:
		material = k.KeyBytes()
	case *xchacha20poly1305.Key:
		material = k.KeyBytes()
	default:
		return nil, errOtherKey
	}
	return material.Data(insecuresecretdataaccess.Token{}), nil
}
