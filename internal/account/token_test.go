package account_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/fault"
)

func TestNewTokensHashToWhatIsStored(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 100 {
		token, hash, err := account.NewToken(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if seen[token] || !strings.HasPrefix(token, "mos_") || len(token) != 4+43 {
			t.Fatalf("token %q", token)
		}
		seen[token] = true
		if got, err := account.HashToken(token); err != nil || got != hash || hash != sha256.Sum256([]byte(token)) {
			t.Fatalf("hash %x, stored %x, %v", got, hash, err)
		}
	}
}

func TestATokenIsAllOfItsRandomBits(t *testing.T) {
	t.Parallel()
	token, _, err := account.NewToken(bytes.NewReader(bytes.Repeat([]byte{0xff}, 64)))
	if want := "mos_" + strings.Repeat("_", 42) + "8"; err != nil || token != want {
		t.Errorf("token %q, want %q", token, want)
	}
	for _, short := range []*bytes.Reader{bytes.NewReader(nil), bytes.NewReader(make([]byte, 31))} {
		if token, _, err := account.NewToken(short); err == nil || token != "" {
			t.Errorf("too little randomness gave %q, %v", token, err)
		}
	}
	if _, _, err := account.NewToken(iotest.ErrReader(errors.New("no"))); fault.From(err).Code != "internal" {
		t.Errorf("err = %v", err)
	}
}

func TestGarbageIsNoToken(t *testing.T) {
	t.Parallel()
	token, _, err := account.NewToken(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	body := strings.TrimPrefix(token, "mos_")
	for _, s := range []string{
		"", "mos_", body, "MOS_" + body, "mos-" + body, " " + token, token + " ", token + "\n", token + "=", token[:46], token + "A",
		"mos_" + strings.Repeat("!", 43), "mos_" + body[:42] + "\n", "mos_" + strings.Repeat("_", 42) + "9", "mos_" + strings.Repeat("+", 43),
	} {
		hash, err := account.HashToken(s)
		f := fault.From(err)
		if f.Code != "token_invalid" || f.Kind != fault.Unauthenticated || hash != [32]byte{} {
			t.Errorf("HashToken(%q) = %x, %v", s, hash, err)
		}
		if err != nil && strings.Contains(err.Error(), body[:8]) {
			t.Errorf("the error repeats the token: %v", err)
		}
	}
}

func TestTokensLiveUntilRevokedOrExpired(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	past, later := now.Add(-time.Second), now.Add(time.Nanosecond)
	for _, tt := range []struct {
		name  string
		token account.Token
		want  bool
	}{
		{"no expiry", account.Token{}, true},
		{"an instant before", account.Token{ExpiresAt: &later}, true},
		{"at the instant", account.Token{ExpiresAt: &now}, false},
		{"expired", account.Token{ExpiresAt: &past}, false},
		{"revoked", account.Token{ExpiresAt: &later, RevokedAt: &past}, false},
	} {
		if got := tt.token.Live(now); got != tt.want {
			t.Errorf("%s: Live = %v", tt.name, got)
		}
	}
}

func FuzzHashToken(f *testing.F) {
	f.Add("mos_" + strings.Repeat("A", 43))
	f.Add("mos_")
	f.Add("mos_" + strings.Repeat("_", 43))
	f.Fuzz(func(t *testing.T, s string) {
		hash, err := account.HashToken(s)
		if err != nil {
			if !errors.Is(err, account.ErrTokenInvalid) {
				t.Fatal(err)
			}
			return
		}
		if len(s) != 47 || !strings.HasPrefix(s, "mos_") || hash != sha256.Sum256([]byte(s)) {
			t.Fatalf("HashToken(%q) = %x", s, hash)
		}
	})
}
