package querying

import (
	"bytes"
	"encoding/json"
	"errors"
)

// Answers are looked at in one pass by json.Valid, and then only cut into pieces: the rows of eight peers are read while
// a user waits. What is here takes JSON for granted, and refuses rather than panics when it is none.

var (
	errDamaged = errors.New("an object or array is damaged")
	errTwice   = errors.New("an object has a key twice")
)

// object makes sure that raw is JSON and one object, and splits it. One with the same key twice is refused: two decoders
// would read it in two ways.
func object(raw []byte) ([]member, error) {
	if !json.Valid(raw) {
		return nil, errDamaged
	}
	return membersOf(raw)
}

// membersOf splits an object into its members.
func membersOf(raw []byte) ([]member, error) {
	i := space(raw, 0)
	if at(raw, i) != '{' {
		return nil, errors.New("not an object")
	}
	list := make([]member, 0, 12) // what a row has
	for i = space(raw, i+1); at(raw, i) != '}'; i = space(raw, i) {
		if len(list) > 0 {
			if at(raw, i) != ',' {
				return nil, errDamaged
			}
			i = space(raw, i+1)
		}
		end := after(raw, i)
		if at(raw, i) != '"' || end > len(raw) {
			return nil, errDamaged
		}
		key, err := text(raw[i:end])
		if err != nil {
			return nil, err
		}
		if i = space(raw, end); at(raw, i) != ':' {
			return nil, errDamaged
		}
		i = space(raw, i+1)
		if end = after(raw, i); end == i || end > len(raw) {
			return nil, errDamaged
		}
		list = append(list, member{key, raw[i:end:end]})
		i = end
	}
	return list, distinct(list)
}

// elements splits an array into its elements.
func elements(raw []byte) ([]json.RawMessage, error) {
	i := space(raw, 0)
	if at(raw, i) != '[' {
		return nil, errors.New("data is not an array")
	}
	list := []json.RawMessage{}
	for i = space(raw, i+1); at(raw, i) != ']'; i = space(raw, i) {
		if len(list) > 0 {
			if at(raw, i) != ',' {
				return nil, errDamaged
			}
			i = space(raw, i+1)
		}
		end := after(raw, i)
		if end == i || end > len(raw) {
			return nil, errDamaged
		}
		list = append(list, raw[i:end:end])
		i = end
	}
	return list, nil
}

// distinct refuses a key that is there twice. Few are compared with each other, many are looked up.
func distinct(list []member) error {
	if len(list) > 32 {
		seen := make(map[string]bool, len(list))
		for _, m := range list {
			if seen[m.key] {
				return errTwice
			}
			seen[m.key] = true
		}
		return nil
	}
	for i, m := range list {
		for _, o := range list[:i] {
			if o.key == m.key {
				return errTwice
			}
		}
	}
	return nil
}

// text reads a string.
func text(raw []byte) (string, error) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", errors.New("a value is no string")
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), nil
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err
}

// at is the byte at i, and zero, which no JSON has there, beyond the end.
func at(raw []byte, i int) byte {
	if i >= len(raw) {
		return 0
	}
	return raw[i]
}

// space is the index of the first byte from i on that is no white space.
func space(raw []byte, i int) int {
	for i < len(raw) && (raw[i] == ' ' || raw[i] == '\n' || raw[i] == '\t' || raw[i] == '\r') {
		i++
	}
	return i
}

// after is the index behind the value that begins at i; more than the length when it does not end.
func after(raw []byte, i int) int {
	switch at(raw, i) {
	case '"':
		return afterString(raw, i)
	case '{', '[':
		depth := 0
		for i < len(raw) {
			switch raw[i] {
			case '"':
				i = afterString(raw, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
		return len(raw) + 1
	}
	for i < len(raw) {
		switch raw[i] {
		case ',', ':', '}', ']', ' ', '\n', '\t', '\r':
			return i
		}
		i++
	}
	return i
}

func afterString(raw []byte, i int) int {
	for i++; i < len(raw); i++ {
		switch raw[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(raw) + 1
}
