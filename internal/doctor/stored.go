package doctor

import (
	"context"
	"strings"
	"time"

	"github.com/mosaicstack/gateway/internal/audit"
)

func (e *examination) credentialChecks() []check {
	if e.Rows == nil {
		return nil
	}
	return []check{
		{name: CredentialsExpiry, after: []string{DatabaseMigrations}, run: e.credentialsExpiry},
		{name: CredentialsRenewal, after: []string{DatabaseMigrations}, run: e.credentialsRenewal},
	}
}

const renewRemedy = "mosaic federation peer show PEER tells why it was not renewed; when it has ended, the peer's admin makes a new URL, redeemed with: mosaic federation peer add URL"

// credentialsExpiry looks for credentials that are over, or close to it: they renew themselves at half of their life,
// so one with a fifth left has failed to for a long time.
func (e *examination) credentialsExpiry(ctx context.Context) Finding {
	list, err := e.Rows.Credentials(ctx)
	if err != nil {
		return blamed(err)
	}
	now := e.Now()
	var over, soon []string
	for _, c := range list {
		switch left := c.NotAfter.Sub(now); {
		case left <= 0:
			over = append(over, line(c.Peer)+" since "+c.NotAfter.UTC().Format(time.RFC3339))
		case left < c.NotAfter.Sub(c.NotBefore)/5:
			soon = append(soon, line(c.Peer)+" at "+until(c.NotAfter, now))
		}
	}
	switch {
	case len(over) > 0:
		return failed("%s that we hold at others cannot be used any more: %s", counted(int64(len(over)), "credential"), few(over)).remedy(renewRemedy)
	case len(soon) > 0:
		return warned("%s that we hold at others will end soon: %s", counted(int64(len(soon)), "credential"), few(soon)).remedy(renewRemedy)
	}
	return fine("%s at others, none near its end", counted(int64(len(list)), "credential"))
}

// credentialsRenewal looks for renewals that fail while there is still time.
func (e *examination) credentialsRenewal(ctx context.Context) Finding {
	list, err := e.Rows.Credentials(ctx)
	if err != nil {
		return blamed(err)
	}
	var failing []string
	for _, c := range list {
		if c.Attempts > 0 && c.NotAfter.After(e.Now()) {
			failing = append(failing, line(c.Peer)+" ("+tries(c.Attempts)+", last: "+line(c.Error)+")")
		}
	}
	if len(failing) > 0 {
		return warned("%s cannot be renewed so far: %s", counted(int64(len(failing)), "credential"), few(failing)).
			remedy("see to it that the peer's federation URL can be reached from here and that its CA works; it is tried again by itself")
	}
	return fine("no renewal has failed")
}

func tries(n int) string {
	if n == 1 {
		return "1 try"
	}
	return itoa(int64(n)) + " tries"
}

// few names the first ones of a list.
func few(list []string) string {
	if len(list) <= maxNamed {
		return strings.Join(list, ", ")
	}
	return strings.Join(list[:maxNamed], ", ") + " and " + itoa(int64(len(list)-maxNamed)) + " more"
}

// When rows that are in no log yet are too old, or too many: a running gateway takes them within about a second.
const (
	backlogAge  = time.Minute
	backlogMost = 10_000
)

func (e *examination) auditChecks() []check {
	if e.Rows == nil {
		return nil
	}
	list := []check{
		{name: AuditBacklog, after: []string{DatabaseMigrations}, run: e.auditBacklog},
		{name: AuditPartitions, after: []string{DatabaseMigrations}, run: e.auditPartitions},
	}
	if e.Ledger == nil || e.Keys == nil {
		return list
	}
	var found audit.Found // written by the one, read by the other after it
	return append([]check{
		{name: AuditKey, after: []string{KeysetOpens}, run: func(ctx context.Context) Finding { return e.auditKey(ctx, &found) }},
		{name: AuditCheckpoint, after: []string{AuditKey}, run: func(context.Context) Finding { return auditCheckpoint(found) }},
	}, list...)
}

func (e *examination) auditKey(ctx context.Context, found *audit.Found) Finding {
	var err error
	*found, err = audit.Examine(ctx, e.Ledger, e.keyset.ring)
	switch {
	case err != nil:
		return blamed(err)
	case !found.HasKey:
		return fine("there is no key for checkpoints yet: the gateway makes one with the first")
	}
	return fine("the key for checkpoints signs, and its public half fits")
}

func auditCheckpoint(found audit.Found) Finding {
	switch {
	case found.Log != nil:
		return blamed(found.Log)
	case found.Signed.IsZero():
		return fine("there is no checkpoint yet")
	}
	return fine("the logs continue the last checkpoint, of %s", found.Signed.UTC().Format(time.RFC3339))
}

func (e *examination) auditBacklog(ctx context.Context) Finding {
	s, err := e.Rows.AuditState(ctx, e.Now())
	if err != nil {
		return blamed(err)
	}
	var age time.Duration
	if s.Waiting > 0 {
		age = e.Now().Sub(s.Oldest)
	}
	remedy := "a running gateway brings them into a log by itself: start one, or look for \"audit rows not sequenced\" in its log"
	switch {
	case s.Waiting >= backlogMost:
		return failed("%d audit rows or more are in no log yet, the oldest for %s", s.Waiting, span(age)).remedy("%s", remedy)
	case age > backlogAge:
		return warned("%s in no log yet, the oldest for %s", counted(s.Waiting, "audit row"), span(age)).remedy("%s", remedy)
	}
	return fine("%s in no log yet", counted(s.Waiting, "audit row"))
}

func (e *examination) auditPartitions(ctx context.Context) Finding {
	s, err := e.Rows.AuditState(ctx, e.Now())
	if err != nil {
		return blamed(err)
	}
	remedy := "start a gateway: it makes the months ahead; rows that are in the default partition stay there and are found as before, only retention does not drop them"
	switch {
	case len(s.Partitions) > 0:
		return warned("the audit log has no partition for %s", strings.Join(s.Partitions, ", ")).remedy("%s", remedy)
	case s.Astray > 0:
		return warned("%s or more in the default partition, outside of every month", counted(s.Astray, "audit row")).remedy("%s", remedy)
	}
	return fine("the months ahead have their partitions")
}

// embeddings asks the endpoint once. Without one a built-in hash stands in.
func (e *examination) embeddings(ctx context.Context) Finding {
	if e.Embedder == nil {
		return warned("there is no embeddings endpoint: a built-in hash stands in, and semantic search finds words, not meaning").
			remedy("set EMBEDDINGS_URL and EMBEDDINGS_MODEL, if search by meaning is wanted")
	}
	vector, err := e.Embedder.Query(ctx, "a question of no meaning")
	if err != nil {
		return blamed(err).remedy("check EMBEDDINGS_URL, EMBEDDINGS_MODEL and EMBEDDINGS_API_KEY, and that the endpoint answers from here; until then new rows are not found by meaning")
	}
	return fine("%s answers with vectors of %d numbers", line(e.Embedder.Model()), len(vector))
}
