package main

import (
	"strings"
	"testing"
)

// TestADamagedAuditLogIsShownAndNamed: somebody cuts the newest batch of a log off, with its rows. The gateway signs
// nothing more, its health says so, and whoever asks is told what is gone instead of being sent round in circles.
func TestADamagedAuditLogIsShownAndNamed(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	g := c.replicas(1)[0]
	g.user("ada@example.org")
	kept := g.keepEvidence()
	g.healthIs("audit", "ok", "ok")
	if _, err := c.database(t).Exec(t.Context(), `WITH cut AS (DELETE FROM federation_audit_batches
			WHERE (log_id, first_leaf) = (SELECT log_id, first_leaf FROM federation_audit_log JOIN federation_audit_batches USING (log_id)
				WHERE verb = 'user.create' ORDER BY first_leaf DESC LIMIT 1) RETURNING log_id, first_leaf)
		DELETE FROM federation_audit_log a USING cut WHERE a.log_id = cut.log_id AND a.leaf_index >= cut.first_leaf`); err != nil {
		t.Fatal(err)
	}
	if _, err := g.try("federation", "audit", "checkpoint"); err == nil || !strings.Contains(err.Error(), "audit_log_damaged") {
		t.Errorf("a checkpoint of what is left: %v", err)
	}
	g.healthIs("audit", "down", "degraded")
	if _, err := g.try("federation", "audit", "export", "--with-proof"); err != nil {
		t.Errorf("the evidence cannot be taken out: %v", err)
	}
	_, err := g.try("federation", "audit", "verify", "--key", kept.key, "--checkpoint", kept.checkpoint)
	if err == nil || !strings.Contains(err.Error(), "audit_log_changed") || !strings.Contains(err.Error(), "all rows from this leaf on are gone; leaf ") {
		t.Errorf("what is gone is not named: %v", err)
	}
}
