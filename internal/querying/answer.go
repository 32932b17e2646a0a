package querying

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/mosaicstack/gateway/internal/page"
)

// sourceKey marks where a row is from. It is ours: a peer's own is dropped, whatever its case, because decoders
// match keys without regard to it.
const sourceKey = "source"

// Page is one page of rows, and how its sources did.
type Page struct {
	Data    []json.RawMessage `json:"data"`
	Sources []Source          `json:"sources"`
	Page    PageInfo          `json:"page"`
	Search  *SearchInfo       `json:"search,omitempty"` // of a search
}

// PageInfo bounds a page.
type PageInfo struct {
	Limit      int     `json:"limit"`
	Capped     bool    `json:"capped"`
	NextCursor *string `json:"next_cursor"` // the peer's, opaque; nil on the last page
}

// Row is one row.
type Row struct {
	Data    json.RawMessage `json:"data"`
	Sources []Source        `json:"sources"` // the one it is from
}

// member is one key of an object with its value as it stands.
type member struct {
	key   string
	value json.RawMessage
}

func (m member) isSource() bool { return strings.EqualFold(m.key, sourceKey) }

// readPage reads {"data":[{…}],"page":{"limit","capped","next_cursor"}} and marks every row. A peer's answer is
// hostile input: what is not exactly this is ErrAnswerInvalid, except that further top-level keys are dropped.
func readPage(body []byte, source string) (Page, error) {
	top, err := document(body)
	if err != nil {
		return Page{}, invalid(source, err)
	}
	rows, err := elements(top["data"])
	if err != nil {
		return Page{}, invalid(source, err)
	}
	if len(rows) > page.MaxLimit {
		return Page{}, invalid(source, errors.New("data has too many rows"))
	}
	for i, row := range rows {
		if rows[i], err = mark(row, source); err != nil {
			return Page{}, invalid(source, err)
		}
	}
	info, err := readPageInfo(top["page"])
	if err != nil {
		return Page{}, invalid(source, err)
	}
	return Page{Data: rows, Page: info, Sources: []Source{{Name: source, Status: StatusOK, Rows: len(rows)}}}, nil
}

// readRow reads {"data":{…}} and marks the row.
func readRow(body []byte, source string) (Row, error) {
	top, err := document(body)
	if err != nil {
		return Row{}, invalid(source, err)
	}
	row, err := mark(top["data"], source)
	if err != nil {
		return Row{}, invalid(source, err)
	}
	return Row{Data: row, Sources: []Source{{Name: source, Status: StatusOK, Rows: 1}}}, nil
}

// invalid names what is wrong with an answer, never what is in it.
func invalid(source string, cause error) error {
	return ErrAnswerInvalid.With("%s answered with something that cannot be used", source).Because(cause)
}

func document(body []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(body) {
		return nil, errors.New("the answer is not UTF-8")
	}
	members, err := object(body) // which makes sure that all of it is JSON
	if err != nil {
		return nil, err
	}
	top := make(map[string]json.RawMessage, len(members))
	for _, m := range members {
		top[m.key] = m.value
	}
	return top, nil
}

func readPageInfo(raw json.RawMessage) (PageInfo, error) {
	var info struct {
		Limit      *int            `json:"limit"`
		Capped     *bool           `json:"capped"`
		NextCursor json.RawMessage `json:"next_cursor"`
	}
	if _, err := object(raw); err != nil {
		return PageInfo{}, err
	}
	if err := json.Unmarshal(raw, &info); err != nil || info.Limit == nil || info.Capped == nil || info.NextCursor == nil {
		return PageInfo{}, errors.New("page has not the fields limit, capped and next_cursor")
	}
	out := PageInfo{Limit: *info.Limit, Capped: *info.Capped}
	if err := json.Unmarshal(info.NextCursor, &out.NextCursor); err != nil {
		return PageInfo{}, errors.New("next_cursor is no string")
	}
	if out.Limit < 1 || out.Limit > page.MaxLimit || out.NextCursor != nil && !cursorShaped(*out.NextCursor) {
		return PageInfo{}, errors.New("page has a value out of range")
	}
	return out, nil
}

// cursorShaped tells whether a cursor may be passed on: visible ASCII, as it goes into URLs and onto terminals.
func cursorShaped(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return s != "" && len(s) <= maxCursor
}

// mark puts "source" at the end of a row, which is JSON. A row without a key of that name, which is every row of an honest peer,
// is copied as it stands.
func mark(row json.RawMessage, source string) (json.RawMessage, error) {
	members, err := membersOf(row)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(members, member.isSource) {
		members = slices.DeleteFunc(members, member.isSource)
		return joined(append(members, member{sourceKey, json.RawMessage(`"` + source + `"`)}))
	}
	tail := `"` + sourceKey + `":"` + source + `"}` // a peer's name needs no escaping
	row = bytes.TrimSpace(row)
	out := make(json.RawMessage, 0, len(row)+len(tail)+1)
	out = append(out, bytes.TrimRight(row[:len(row)-1], " \t\r\n")...)
	if len(members) > 0 {
		out = append(out, ',')
	}
	return append(out, tail...), nil
}

// joined writes an object of its members.
func joined(members []member) (json.RawMessage, error) {
	out := json.RawMessage{'{'}
	for i, m := range members {
		key, err := json.Marshal(m.key)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(append(out, key...), ':'), m.value...)
	}
	return append(out, '}'), nil
}
