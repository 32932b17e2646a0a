-- +goose Up

-- Where this database lives. A dump that is restored carries the row along and lives elsewhere: in another server,
-- another database, or another table of this name. So a copy is told from the original, which grants and tokens that
-- were revoked since must not come back from.
CREATE TABLE gateway_home (
    only_one          boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    system_identifier bigint NOT NULL, -- of the server (pg_control_system)
    database_oid      oid NOT NULL,
    table_oid         oid NOT NULL,
    settled_at        timestamptz NOT NULL DEFAULT now()
);
INSERT INTO gateway_home (system_identifier, database_oid, table_oid)
SELECT s.system_identifier, d.oid, 'gateway_home'::regclass FROM pg_control_system() s, pg_database d WHERE d.datname = current_database();

-- +goose Down
DROP TABLE gateway_home;
