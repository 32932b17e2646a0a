package querying

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/page"
)

// maxFanoutCursor bounds a cursor that holds a position for each source, in characters.
const maxFanoutCursor = 24 << 10

// position is how far one source has been read: the cursor of the page that the next row is on, and the last row
// of it that was given away.
type position struct {
	Source string
	Cursor string
	After  sortKey
	Done   bool
}

type positions []position

// The form of positions inside a cursor. Times keep all of their digits: they are the peer's.
type wirePosition struct {
	Source string `json:"s"`
	Cursor string `json:"c,omitempty"`
	At     string `json:"t,omitempty"`
	ID     string `json:"i,omitempty"`
	Done   bool   `json:"d,omitempty"`
}

// sealPositions makes the one cursor of an answer from many sources. It holds cursors of peers and times of rows, so
// it is sealed: nobody may write one, and nothing can be read off one.
func (s *Service) sealPositions(at positions, binding string) (string, error) {
	wire := make([]wirePosition, 0, len(at))
	for _, p := range at {
		w := wirePosition{Source: p.Source, Cursor: p.Cursor, Done: p.Done}
		if !p.After.at.IsZero() {
			w.At, w.ID = p.After.at.Format(time.RFC3339Nano), p.After.id.String()
		}
		wire = append(wire, w)
	}
	var plain bytes.Buffer
	enc := json.NewEncoder(&plain)
	enc.SetEscapeHTML(false) // nobody shows this as HTML, and a peer's cursor of "<" would take six times its length
	if err := enc.Encode(wire); err != nil {
		return "", err
	}
	sealed, err := s.Cursors.Encrypt(plain.Bytes(), []byte(binding))
	if err != nil {
		return "", fmt.Errorf("seal cursor: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(sealed), nil
}

// openPositions reads a cursor. It is hostile input: whatever is wrong, the answer is page.ErrCursorInvalid.
func (s *Service) openPositions(cursor, binding string) (positions, error) {
	if len(cursor) > maxFanoutCursor {
		return nil, page.ErrCursorInvalid
	}
	sealed, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || base64.RawURLEncoding.EncodeToString(sealed) != cursor {
		return nil, page.ErrCursorInvalid
	}
	plain, err := s.Cursors.Decrypt(sealed, []byte(binding))
	if err != nil {
		return nil, page.ErrCursorInvalid.Because(err)
	}
	var wire []wirePosition
	if err := json.Unmarshal(plain, &wire); err != nil || len(wire) > maxSources {
		return nil, page.ErrCursorInvalid
	}
	at := make(positions, 0, len(wire))
	for _, w := range wire {
		p := position{Source: w.Source, Cursor: w.Cursor, Done: w.Done}
		if w.At != "" {
			if p.After.at, err = time.Parse(time.RFC3339Nano, w.At); err != nil {
				return nil, page.ErrCursorInvalid
			}
			if p.After.id, err = uuid.Parse(w.ID); err != nil {
				return nil, page.ErrCursorInvalid
			}
		}
		at = append(at, p)
	}
	return at, nil
}
