package daemon

import (
	"context"
	"encoding/json"
	"io"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
)

// demoRows is a handful of rows of one owner.
type demoRows struct {
	resource scope.Resource
	owner    string
	team     string
	rows     []map[string]any
}

const (
	demoAda   = "ada@example.org"
	demoBo    = "bo@example.org"
	demoTeamA = "platform"
	demoTeamB = "garden"
)

// demoData is a small believable gateway: two people, a team at work and one at home, and what they keep.
func demoData() []demoRows {
	return []demoRows{
		{scope.Tasks, demoAda, "", []map[string]any{
			{"title": "Renew the passport", "body": "Photos are in the top drawer.", "status": "open"},
			{"title": "Book the train to Ghent", "status": "done"},
			{"title": "Read the paper on capability certificates", "body": "Section 4 is the one that matters.", "status": "in_progress"},
		}},
		{scope.Tasks, demoAda, demoTeamA, []map[string]any{
			{"title": "Rotate the staging database password", "status": "open"},
			{"title": "Write the runbook for the CA outage", "body": "Start from the notes of the March incident.", "status": "in_progress"},
		}},
		{scope.Tasks, demoBo, "", []map[string]any{
			{"title": "Call the dentist", "status": "open"},
			{"title": "Plan the offsite", "body": "Three days, near the sea.", "status": "open"},
		}},
		{scope.Tasks, demoBo, demoTeamB, []map[string]any{
			{"title": "Prune the apple trees", "body": "Before the first frost.", "status": "open"},
		}},
		{scope.Notes, demoAda, "", []map[string]any{
			{"title": "Ideas for the talk", "body": "Why a revoke that has returned must be in force everywhere."},
			{"title": "Groceries", "body": "Lentils, lemons, coffee."},
		}},
		{scope.Notes, demoAda, demoTeamA, []map[string]any{
			{"title": "March incident", "body": "The intermediate expired; nobody owned the alarm."},
		}},
		{scope.Notes, demoBo, "", []map[string]any{
			{"title": "Bike", "body": "Chain replaced in June, next service in spring."},
		}},
		{scope.Memory, demoAda, "", []map[string]any{
			{"content": "Ada prefers answers that begin with the conclusion.", "metadata": map[string]any{"source": "chat", "confidence": 0.9}},
			{"content": "The staging cluster is rebuilt every Monday at six.", "metadata": map[string]any{"source": "runbook"}},
		}},
		{scope.Memory, demoBo, "", []map[string]any{
			{"content": "Bo is allergic to penicillin.", "metadata": map[string]any{"source": "form"}},
		}},
	}
}

// loadDemo fills an empty gateway. One that has users keeps what it has.
func loadDemo(ctx context.Context, g *gateway) error {
	users, err := g.accounts.Users(ctx)
	if err != nil || len(users) > 0 {
		return err
	}
	act := audit.Act{RequestID: "demo-data", Actor: "gateway dev --demo-data", RemoteAddress: "local"}
	for _, u := range []account.User{
		{Email: demoAda, DisplayName: "Ada", Role: account.Admin},
		{Email: demoBo, DisplayName: "Bo", Role: account.Member},
	} {
		if _, err := g.accounts.CreateUser(ctx, u, act); err != nil {
			return err
		}
	}
	for team, members := range map[string][]string{demoTeamA: {demoAda, demoBo}, demoTeamB: {demoBo}} {
		if _, err := g.accounts.CreateTeam(ctx, team, act); err != nil {
			return err
		}
		for _, user := range members {
			if err := g.accounts.AddMember(ctx, team, user, act); err != nil {
				return err
			}
		}
	}
	for _, d := range demoData() {
		if _, err := g.resources.Import(ctx, d.resource, d.owner, d.team, d.next(), act); err != nil {
			return err
		}
	}
	return nil
}

func (d demoRows) next() func() (resource.Row, error) {
	i := 0
	return func() (resource.Row, error) {
		if i == len(d.rows) {
			return resource.Row{}, io.EOF
		}
		doc, err := json.Marshal(d.rows[i])
		i++
		if err != nil {
			return resource.Row{}, err
		}
		return resource.ParseRow(d.resource, doc)
	}
}
