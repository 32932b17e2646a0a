package main

import (
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestAClockThatIsTenMinutesOff has a gateway whose clock is wrong ask one whose clock is right, and be asked by it.
// Whichever way it is wrong, nobody sees anything of it but the times in its audit log: certificates that were made this
// moment are good on both sides, pages go on, tokens live as long as was said. When the clock is set right, a jump of
// ten minutes for the gateway, its log is whole and its grants and credentials are good.
//
// What is wrong is the clock of the gateway's own process, which judges certificates and dates what it records. Its
// database and its CA keep the machine's time; that they disagree with the gateway is the harder half of this test.
func TestAClockThatIsTenMinutesOff(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	var lab, ahead, behind *gatewayProcess
	startAll(t, []gatewayAt{
		{&lab, filepath.Join(root, "lab"), "127.0.0.4", nil},
		{&ahead, filepath.Join(root, "ahead"), "127.0.0.5", []string{clockName + "=10m"}},
		{&behind, filepath.Join(root, "behind"), "127.0.0.6", []string{clockName + "=-10m"}},
	})
	lab.user("ada@example.org", rows("lab")...)
	lab.user("ada@home.example")
	var wg sync.WaitGroup
	for name, home := range map[string]*gatewayProcess{"ahead": ahead, "behind": behind} {
		wg.Go(func() { t.Run(name, func(t *testing.T) { wrongClock(t, name, home, lab) }) })
	}
	wg.Wait()
}

func wrongClock(t *testing.T, name string, home, lab *gatewayProcess) {
	home.t, lab = t, lab.in(t)
	home.user("ada@home.example", "home-1", "home-2")
	_, e := lab.grantFor(name, "ada@example.org", tasksOnly, asOftenAsAsked...)
	home.mosaic("federation", "peer", "add", e.URL, "--name", "lab", "--user", "ada@home.example")
	a := home.asker(t, "ada@home.example")
	titles, pages := "", 0
	for cursor := ""; pages < 20; pages++ {
		d := a.list(t, "lab", "limit", "15", "cursor", cursor)
		if s := d.source(t, "lab"); s.Status != "ok" {
			t.Fatalf("lab is %+v", s)
		}
		if of := d.of("lab"); of != "" {
			titles += "," + of
		}
		if d.Page.NextCursor == nil {
			break
		}
		cursor = *d.Page.NextCursor
	}
	if titles != ","+full("lab") {
		t.Errorf("in %d pages: %s", pages+1, titles)
	}
	if d := a.search(t, "lab", "lab"); d.source(t, "lab").Rows != 40 {
		t.Errorf("searched: %+v", d.Sources)
	}

	// A token of five minutes lives, although by the clock that is ahead it has ended.
	var made struct {
		Token     string
		ExpiresAt time.Time `json:"expires_at"`
	}
	home.decode(&made, "token", "create", "--user", "ada@home.example", "--ttl", "5m")
	short := a
	short.token = made.Token
	if d := short.list(t, "lab"); d.of("lab") != full("lab") {
		t.Errorf("with a token of five minutes: %+v", d.Sources)
	}
	if left := time.Until(made.ExpiresAt); left < 4*time.Minute || left > 5*time.Minute {
		t.Errorf("a token of five minutes lives for %s", left)
	}

	// And it serves: its enrollment is redeemed, and the certificate of this moment lets its holder in.
	_, e = home.grantFor("lab", "ada@home.example", tasksOnly)
	lab.mosaic("federation", "peer", "add", e.URL, "--name", name, "--user", "ada@home.example")
	other := lab.asker(t, "ada@home.example")
	if d := other.list(t, name); d.of(name) != "home-2,home-1" {
		t.Errorf("asked by lab: %+v", d.Sources)
	}

	before := home.audited(t)
	if err := home.stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var right *gatewayProcess
	startAll(t, []gatewayAt{{&right, home.dir, home.host(), nil}})
	a = right.asker(t, "ada@home.example")
	if d := a.list(t, "lab"); d.of("lab") != full("lab") {
		t.Errorf("after the clock was set right: %+v", d.Sources)
	}
	if after := right.audited(t); after != before+1 {
		t.Errorf("%d questions are on record, and %d were before the last one", after, before)
	}
}

// audited verifies the audit log, wants its list newest first, and counts the questions that were asked of others.
func (g *gatewayProcess) audited(t *testing.T) (questions int) {
	t.Helper()
	g.mosaic("federation", "audit", "verify")
	var rows []struct {
		Direction string
		CreatedAt time.Time `json:"created_at"`
	}
	g.decode(&rows, "federation", "audit", "list")
	for i, r := range rows {
		if i > 0 && r.CreatedAt.After(rows[i-1].CreatedAt) {
			t.Errorf("row %d of the audit list is of %s, after one of %s", i, r.CreatedAt, rows[i-1].CreatedAt)
		}
		if r.Direction == "outbound" {
			questions++
		}
	}
	return questions
}
