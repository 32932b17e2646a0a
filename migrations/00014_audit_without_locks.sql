-- +goose Up

-- A commit to the audit log names a peer in each of its rows, and the foreign key locked that peer for each: a tenth of
-- what the commit costs, and a wait behind everybody who removes a peer. What the key did when a peer goes, a trigger
-- does. A row that is committed at the same moment may keep the id of a peer that is gone; a task makes it forget that.
ALTER TABLE federation_audit_log DROP CONSTRAINT federation_audit_log_peer_id_fkey;
-- +goose StatementBegin
CREATE FUNCTION forget_removed_peer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE federation_audit_log SET peer_id = NULL WHERE peer_id = OLD.id;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER federation_peers_removed AFTER DELETE ON federation_peers FOR EACH ROW EXECUTE FUNCTION forget_removed_peer();

-- The primary key, read from its end, is the same order.
DROP INDEX federation_audit_log_recent;

-- +goose Down
CREATE INDEX federation_audit_log_recent ON federation_audit_log (created_at DESC);
DROP TRIGGER federation_peers_removed ON federation_peers;
DROP FUNCTION forget_removed_peer;
UPDATE federation_audit_log a SET peer_id = NULL WHERE peer_id IS NOT NULL AND NOT EXISTS (SELECT FROM federation_peers p WHERE p.id = a.peer_id);
ALTER TABLE federation_audit_log ADD CONSTRAINT federation_audit_log_peer_id_fkey FOREIGN KEY (peer_id) REFERENCES federation_peers ON DELETE SET NULL;
