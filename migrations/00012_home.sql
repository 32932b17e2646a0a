-- +goose Up

-- Where this database lives. A dump that is restored carries the row along and lives elsewhere: in another server,
-- another database, another table of this name, or beside the row of a database that was migrated before it was filled.
-- A row that was loaded into this very table was written by another transaction than it says. So a copy is told from the
-- original, which grants and tokens that were revoked since must not come back from.
CREATE TABLE gateway_home (
    system_identifier bigint NOT NULL, -- of the server (pg_control_system)
    database_oid      oid NOT NULL,
    table_oid         oid NOT NULL,
    written_by        xid8 NOT NULL DEFAULT pg_current_xact_id(),
    settled_at        timestamptz NOT NULL DEFAULT now()
);
INSERT INTO gateway_home (system_identifier, database_oid, table_oid)
SELECT s.system_identifier, d.oid, 'gateway_home'::regclass FROM pg_control_system() s, pg_database d WHERE d.datname = current_database();

-- +goose Down
DROP TABLE gateway_home;
