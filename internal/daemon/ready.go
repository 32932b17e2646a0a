package daemon

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/mosaicstack/gateway/internal/devstack"
)

const readyFile = "ready.json"

// readyDoc is what ready.json says once the gateway serves. Its paths are absolute. What belongs to federation is left
// out where there is none.
type readyDoc struct {
	URL           string `json:"url"`
	FederationURL string `json:"federation_url,omitempty"`
	Socket        string `json:"socket"`
	CARootFile    string `json:"ca_root_file,omitempty"`
	CAFingerprint string `json:"ca_fingerprint,omitempty"`
	PID           int    `json:"pid"`
	MetricsURL    string `json:"metrics_url,omitempty"`
}

func (r readyDoc) write(dir *devstack.Dir) error {
	doc, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return devstack.WriteFileAtomic(dir.Join(readyFile), append(doc, '\n'), 0o600)
}

// announce says on stdout that the gateway serves.
func (r readyDoc) announce(o DevOptions) error {
	if o.JSON {
		return json.NewEncoder(o.Stdout).Encode(r)
	}
	banner(o.Stdout, o.Program, o.Dir, r)
	return nil
}

// banner tells a person what runs and what to type next.
func banner(w io.Writer, program, dir string, r readyDoc) {
	flag := ""
	if dir != ".mosaic" {
		flag = " --dir " + quoted(dir)
	}
	_, _ = fmt.Fprintf(w, `
  Mosaic gateway is ready.

    API         %s
    Federation  %s   (mTLS)
    CA root     %s
    Stop        Ctrl-C; data stays in %s

  Next, in another terminal:

    %s user create you@example.org --role admin%s

`, r.URL, r.FederationURL, r.CARootFile, dir, quoted(program), flag)
}

// quoted writes a word so that a shell reads it as one.
func quoted(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_./:@+,", r)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
