package remote

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestOnlyAStrongTagIsTaken(t *testing.T) {
	t.Parallel()
	for tag, taken := range map[string]bool{
		`"abc"`: true, `"` + strings.Repeat("x", maxTag-2) + `"`: true,
		``: false, `""`: false, `abc`: false, `W/"abc"`: false, `"a"b"`: false, `"a,b"`: false, `"a b"`: false, `"é"`: false, "\"a\x00b\"": false, `"a`: false,
		`"` + strings.Repeat("x", maxTag-1) + `"`: false,
	} {
		if got := entityTag(http.Header{"Etag": {tag}}); (got != "") != taken || taken && got != tag {
			t.Errorf("%q was taken as %q", tag, got)
		}
	}
	if got := entityTag(http.Header{"Etag": {`"a"`, `"b"`}}); got != "" {
		t.Errorf("of two tags %q was taken", got)
	}
}

func TestALifeIsForPrivateKeepingOnly(t *testing.T) {
	t.Parallel()
	for control, want := range map[string]time.Duration{
		"private, max-age=300": 5 * time.Minute, "PRIVATE,Max-Age=7": 7 * time.Second, " max-age=7 , private": 7 * time.Second, "private, max-age=0": 0,
		"": 0, "max-age=300": 0, "public, max-age=300": 0, "private": 0, "private, max-age": 0, "private, max-age=": 0, "private, max-age=-1": 0,
		"private, max-age=x": 0, "private, max-age=99999999999": 0, "private, max-age=300, no-store": 0, "no-store, private, max-age=300": 0, `private, max-age="300"`: 0,
	} {
		if got := life(http.Header{"Cache-Control": {control}}); got != want {
			t.Errorf("%q: %s, want %s", control, got, want)
		}
	}
	if got := life(http.Header{"Cache-Control": {"private, max-age=300", "no-store"}}); got != 0 {
		t.Errorf("no-store in a header of its own: %s", got)
	}
}

func FuzzValidator(f *testing.F) {
	for _, s := range []string{`"abc"`, `W/"a"`, "private, max-age=300", "no-store", "max-age=1,private", `"`, ",,=,"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, tag, control string) {
		h := http.Header{"Etag": {tag}, "Cache-Control": {control}}
		if got := entityTag(h); got != "" && (got != tag || strings.ContainsAny(got, ", \r\n\x00") || len(got) > maxTag) {
			t.Fatalf("%q was taken as %q", tag, got)
		}
		if got, low := life(h), strings.ToLower(control); got < 0 || got > 0 && !(strings.Contains(low, "private") && strings.Contains(low, "max-age=")) {
			t.Fatalf("%q lets an answer live for %s", control, got)
		}
	})
}
