package daemon

import "testing"

func TestOneCertificateIsOne(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{1: "1 certificate is", 2: "2 certificates are"} {
		if got := counted(n); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
