package audit

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Row is an audit row as JSON has it, in the API and in an export. Ids that do not apply are null.
type Row struct {
	ID             uuid.UUID  `json:"id"`
	RequestID      string     `json:"request_id"`
	Direction      Direction  `json:"direction"`
	Actor          string     `json:"actor"`
	PeerID         *uuid.UUID `json:"peer_id" doc:"null when the peer is gone; peer_ref and peer_name stay"`
	PeerRef        *uuid.UUID `json:"peer_ref"`
	PeerName       string     `json:"peer_name"`
	GrantID        *uuid.UUID `json:"grant_id"`
	SubjectUserID  *uuid.UUID `json:"subject_user_id"`
	Fingerprint    string     `json:"certificate_fingerprint"`
	RemoteAddress  string     `json:"remote_address"`
	Verb           string     `json:"verb"`
	Resource       string     `json:"resource"`
	StatusCode     int        `json:"status_code"`
	Outcome        Outcome    `json:"outcome"`
	DeniedReason   string     `json:"denied_reason"`
	Detail         string     `json:"detail"`
	QueryHash      string     `json:"query_hash"`
	RowsOut        int        `json:"rows_out"`
	BytesOut       int64      `json:"bytes_out"`
	DurationMicros int64      `json:"duration_us"`
	Occurrences    int        `json:"occurrences"`
	CreatedAt      time.Time  `json:"created_at"`
	LogID          *uuid.UUID `json:"log_id" doc:"the log that the row is a leaf of; null for a moment after an administrative act"`
	LeafIndex      *int64     `json:"leaf_index"`
}

// Row is the entry as JSON has it.
func (e Entry) Row() Row {
	r := Row{
		ID: e.ID, RequestID: e.RequestID, Direction: e.Direction, Actor: e.Actor, PeerID: orNull(e.PeerID), PeerRef: orNull(e.PeerRef),
		PeerName: e.PeerName, GrantID: orNull(e.GrantID), SubjectUserID: orNull(e.SubjectUserID), Fingerprint: hex.EncodeToString(e.Fingerprint),
		RemoteAddress: e.RemoteAddress, Verb: e.Verb, Resource: e.Resource, StatusCode: e.StatusCode, Outcome: e.Outcome, DeniedReason: e.DeniedReason,
		Detail: e.Detail, QueryHash: hex.EncodeToString(e.QueryHash), RowsOut: e.RowsOut, BytesOut: e.BytesOut,
		DurationMicros: e.Duration.Microseconds(), Occurrences: e.Occurrences, CreatedAt: e.CreatedAt.UTC(), LogID: orNull(e.LogID),
	}
	if r.LogID != nil {
		r.LeafIndex = &e.LeafIndex
	}
	return r
}

func orNull(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}

func orNil(id *uuid.UUID) uuid.UUID {
	if id == nil {
		return uuid.Nil
	}
	return *id
}

// line is the row as one line of an export: JSON of ASCII characters, so that no terminal and no line reader finds
// anything in it to act on. There is one such line for a row, and another one is no line of an export.
func (r Row) line() ([]byte, error) { return line(r) }

func line(v any) ([]byte, error) {
	doc, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("audit: export line: %w", err)
	}
	return append(ascii(doc), '\n'), nil
}

// ascii writes everything beyond ASCII as JSON escapes. It stands inside of strings only.
func ascii(doc []byte) []byte {
	plain := true
	for _, b := range doc {
		plain = plain && b < 0x7f
	}
	if plain {
		return doc
	}
	out := make([]byte, 0, len(doc)+64)
	for len(doc) > 0 {
		r, size := utf8.DecodeRune(doc)
		doc = doc[size:]
		switch {
		case r < 0x7f:
			out = append(out, byte(r))
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

// parseRow reads a line of an export, and takes only what line would write: white space, the order of the keys, a key
// that is there twice or in capitals would otherwise show a reader of the file something else than what was verified.
func parseRow(text []byte) (Row, Entry, error) {
	var r Row
	if err := json.Unmarshal(text, &r); err != nil {
		return r, Entry{}, fmt.Errorf("is no row: %w", err)
	}
	fingerprint, err := hex.DecodeString(r.Fingerprint)
	if err != nil {
		return r, Entry{}, fmt.Errorf("certificate_fingerprint: %w", err)
	}
	query, err := hex.DecodeString(r.QueryHash)
	if err != nil {
		return r, Entry{}, fmt.Errorf("query_hash: %w", err)
	}
	e := Entry{
		Event: Event{
			ID: r.ID, RequestID: r.RequestID, Direction: r.Direction, Actor: r.Actor, PeerID: orNil(r.PeerID), PeerName: r.PeerName,
			GrantID: orNil(r.GrantID), SubjectUserID: orNil(r.SubjectUserID), Fingerprint: fingerprint, RemoteAddress: r.RemoteAddress,
			Verb: r.Verb, Resource: r.Resource, StatusCode: r.StatusCode, Outcome: r.Outcome, DeniedReason: r.DeniedReason, Detail: r.Detail,
			QueryHash: query, RowsOut: r.RowsOut, BytesOut: r.BytesOut, Duration: time.Duration(r.DurationMicros) * time.Microsecond,
			Occurrences: r.Occurrences, CreatedAt: r.CreatedAt,
		},
		PeerRef: orNil(r.PeerRef), LogID: orNil(r.LogID), LeafIndex: -1,
	}
	if r.LeafIndex != nil {
		e.LeafIndex = *r.LeafIndex
	}
	if e.PeerID != uuid.Nil && e.PeerID != e.PeerRef {
		return r, e, fmt.Errorf("peer_id %s is not peer_ref %s", e.PeerID, e.PeerRef)
	}
	again, err := e.Row().line()
	if err != nil {
		return r, e, err
	}
	if !bytes.Equal(bytes.TrimSuffix(again, []byte("\n")), text) {
		return r, e, fmt.Errorf("is not written as an export writes a row")
	}
	return r, e, nil
}
