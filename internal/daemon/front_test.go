package daemon

import (
	"errors"
	"testing"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/httpapi"
	"github.com/mosaicstack/gateway/internal/postgres"
)

// An admin is told what is wrong; everybody else that something is, and no error of our own is shown to either.
func TestAWaitingReplicaTellsAnAdminWhy(t *testing.T) {
	t.Parallel()
	w := &waiting{}
	for _, tt := range []struct {
		name               string
		tell               func()
		code, detail, hint string
	}{
		{"before it waits", func() {}, "starting", "the gateway waits for its parts", httpapi.ErrStarting.Hint},
		{"before the first try", func() { w.on("schema", nil) }, "starting", "the gateway waits for its schema", httpapi.ErrStarting.Hint},
		{"for an admin", func() { w.on("database", postgres.ErrTierMigration) }, "tier_migration_unfinished", "the gateway does not serve yet: " + postgres.ErrTierMigration.Detail, postgres.ErrTierMigration.Hint},
		{"for what has no words", func() { w.on("ca", errors.New("dial 10.0.0.7: secret")) }, "starting", "the gateway waits for its ca", httpapi.ErrStarting.Hint},
	} {
		tt.tell()
		f := fault.From(w.admin())
		if f.Code != tt.code || f.Detail != tt.detail || f.Hint != tt.hint || f.Kind != fault.Unavailable {
			t.Errorf("%s: %+v", tt.name, f)
		}
		if err := w.anybody(); !errors.Is(err, httpapi.ErrStarting) || fault.From(err).Detail != httpapi.ErrStarting.Detail {
			t.Errorf("%s: everybody is told %v", tt.name, err)
		}
	}
	if postgres.ErrTierMigration.Kind != fault.Conflict {
		t.Error("the fault itself was changed")
	}
}
