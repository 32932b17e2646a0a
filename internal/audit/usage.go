package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/mosaicstack/gateway/internal/fault"
)

// What cannot be verified as it was given. None of it says anything about the log.
var (
	ErrNoProof = &fault.Fault{
		Kind: fault.Invalid, Code: "audit_export_unusable", Detail: "this is no export of an audit log with its proof",
		Hint: "write one with: mosaic federation audit export --with-proof > FILE",
	}
	ErrRange = &fault.Fault{
		Kind: fault.Invalid, Code: "audit_range_differs", Detail: "the export is of another range than the one that is verified",
		Hint: "say what was exported, with --since and --until",
	}
	ErrKey = &fault.Fault{
		Kind: fault.Invalid, Code: "audit_key_invalid", Detail: "this is no key that checkpoints are verified with",
		Hint: "give what mosaic federation audit key prints: the text, a FILE, or - for stdin",
	}
)

// begins looks at how the input begins: what is no export with its proof was not written by whoever tampers with one.
func (v *verifier) begins() error {
	start, err := v.in.Peek(len(csvHeader[0]) + 1)
	if len(start) == 0 && errors.Is(err, io.EOF) {
		return ErrNoProof.With("the file is empty: it is no export of an audit log with its proof")
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read export: %w", err)
	}
	switch {
	case IsProofLine(start):
		return nil
	case bytes.HasPrefix(start, []byte(`{"id":`)):
		return ErrNoProof.With("this is an export without its proof")
	case bytes.HasPrefix(start, []byte(csvHeader[0]+",")):
		return ErrNoProof.With("this is an export as CSV, which has no proof")
	case bytes.HasPrefix(start, []byte("mosaic-aud")):
		return ErrNoProof.With("this is a checkpoint or a key, and no export").
			Advise("give it with --checkpoint or --key, and as FILE what mosaic federation audit export --with-proof writes")
	}
	return ErrNoProof
}

// IsKey reports whether text is a key that checkpoints are verified with.
func IsKey(text string) bool {
	_, err := noteVerifier(text)
	return err == nil
}
