package stepca_test

import (
	"encoding/pem"
	"errors"
	"testing"

	"github.com/mosaicstack/gateway/internal/ca/stepca"
)

func FuzzParseRoots(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{0x30, 0}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		roots, err := stepca.ParseRoots(data)
		if err != nil {
			if !errors.Is(err, stepca.ErrConfig) {
				t.Fatalf("error without a code: %v", err)
			}
			return
		}
		for _, root := range roots {
			if !root.IsCA {
				t.Fatal("accepted a root that is no CA")
			}
		}
	})
}
