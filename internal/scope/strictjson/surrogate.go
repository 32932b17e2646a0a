package strictjson

import (
	"strconv"
	"unicode/utf16"
)

// loneSurrogate tells whether a well-formed JSON string literal escapes a surrogate without its partner.
func loneSurrogate(literal []byte) bool {
	for i := 0; i < len(literal); {
		if literal[i] != '\\' {
			i++
			continue
		}
		unit, ok := escapedUnit(literal[i:])
		if !ok {
			i += 2 // a two-character escape such as \n or \\
			continue
		}
		i += 6
		if !utf16.IsSurrogate(unit) {
			continue
		}
		low, ok := escapedUnit(literal[i:])
		if !ok || utf16.DecodeRune(unit, low) == '\uFFFD' {
			return true
		}
		i += 6
	}
	return false
}

// escapedUnit reads \uXXXX at the start of s.
func escapedUnit(s []byte) (rune, bool) {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(s[2:6]), 16, 16)
	return rune(n), err == nil
}
