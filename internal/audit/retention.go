package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/note"
)

// RetentionVerb is the verb of the row that tells of dropped rows.
const RetentionVerb = "audit.retention"

// errRemoval is said of a row that tells of dropped rows and is not one that the retention task wrote.
var errRemoval = errors.New("the row that tells of dropped rows is not the gateway's own")

// The row's detail is the time before which rows were dropped, and a signature of the checkpoint key. Without it
// whoever has the database could write such a row, have it sequenced like any other, and delete what it explains.
const signedMark = ", signed "

// removalText is what is signed. It names its row, so that it cannot be told again, and its second line is no number:
// it is no checkpoint.
func removalText(origin string, before time.Time, row uuid.UUID) string {
	return origin + "\n" + RetentionVerb + "\nrows from before " + before.UTC().Format(time.RFC3339) + "\nrow " + row.String() + "\n"
}

// Removal signs that all rows from before a time are dropped, and gives the detail of the row that says so. It is for
// the task that drops them alone. Only whole months are dropped, and never this one.
func (n *Notary) Removal(ctx context.Context, before time.Time, row uuid.UUID) (detail string, err error) {
	if !monthBegins(before) || before.After(monthOf(n.Now())) {
		return "", fmt.Errorf("audit: rows from before %s are not to be dropped", before.UTC().Format(time.RFC3339Nano))
	}
	signer, verifier, err := n.key(ctx)
	if err != nil {
		return "", err
	}
	text := removalText(signer.Name(), before, row)
	signed, err := note.Sign(&note.Note{Text: text}, signer)
	if err != nil {
		return "", fmt.Errorf("sign removal: %w", err)
	}
	opened, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return "", fmt.Errorf("sign removal: %w", err)
	}
	return before.UTC().Format(time.RFC3339) + signedMark + opened.Sigs[0].Base64, nil
}

// removal gives the time before which rows were dropped, by a row whose leaf was compared already.
func removal(e Entry, key note.Verifier) (before time.Time, err error) {
	at, signature, ok := strings.Cut(e.Detail, signedMark)
	if !ok {
		return before, fmt.Errorf("%w: it is not signed", errRemoval)
	}
	if before, err = time.Parse(time.RFC3339, at); err != nil {
		return before, fmt.Errorf("%w: %w", errRemoval, err)
	}
	text := removalText(key.Name(), before, e.ID)
	if _, err := note.Open([]byte(text+"\n— "+key.Name()+" "+signature+"\n"), note.VerifierList(key)); err != nil {
		return before, fmt.Errorf("%w: its signature is not of this key", errRemoval)
	}
	if e.Verb != RetentionVerb || e.Direction != Admin || !monthBegins(before) || before.After(monthOf(e.CreatedAt)) {
		return before, fmt.Errorf("%w: whole months that have ended are dropped, and nothing else", errRemoval)
	}
	return before, nil
}

func monthOf(t time.Time) time.Time {
	t = t.UTC()
	return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
}

func monthBegins(t time.Time) bool { return t.Equal(monthOf(t)) }
