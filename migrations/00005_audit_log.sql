-- +goose Up

-- Where a row stands in the tamper-evident log. Rows that ride in an administrative transaction get theirs within
-- seconds of their commit; so do rows that an older replica writes.
ALTER TABLE federation_audit_log ADD COLUMN log_id uuid, ADD COLUMN leaf_index bigint;
CREATE INDEX federation_audit_log_unsequenced ON federation_audit_log (created_at, id) WHERE leaf_index IS NULL;

-- One row for each batch of leaves, written in the transaction that writes or sequences the rows. It outlives their
-- partition: a dropped row keeps its time and its hash.
CREATE TABLE federation_audit_batches (
    log_id     uuid NOT NULL,
    first_leaf bigint NOT NULL CHECK (first_leaf >= 0),
    leaf_count integer NOT NULL CHECK (leaf_count > 0),
    leaves     bytea NOT NULL CHECK (octet_length(leaves) = 40 * leaf_count), -- time and SHA-256 of each row
    root       bytea NOT NULL CHECK (octet_length(root) = 32),                -- of the log, up to and with this batch
    PRIMARY KEY (log_id, first_leaf)
);
-- Hashes do not compress: PostgreSQL shall not try.
ALTER TABLE federation_audit_batches ALTER COLUMN leaves SET STORAGE EXTERNAL;

-- The one key that checkpoints are signed with, its private half sealed.
CREATE TABLE federation_audit_keys (
    id                 uuid PRIMARY KEY,
    only_one           boolean NOT NULL DEFAULT true UNIQUE CHECK (only_one),
    verifier           text NOT NULL,
    private_key_sealed bytea NOT NULL,
    created_at         timestamptz NOT NULL DEFAULT now()
);

-- Signed statements of how far every log had come. Each is worth most where the gateway cannot reach it.
CREATE TABLE federation_audit_checkpoints (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    size       bigint NOT NULL,
    note       text NOT NULL
);

-- What retention has dropped, and the audit row that says so.
CREATE TABLE federation_audit_retention (
    dropped_before timestamptz PRIMARY KEY,
    row_id         uuid NOT NULL,
    row_created_at timestamptz NOT NULL
);

-- +goose Down
DROP TABLE federation_audit_retention, federation_audit_checkpoints, federation_audit_keys, federation_audit_batches;
DROP INDEX federation_audit_log_unsequenced;
ALTER TABLE federation_audit_log DROP COLUMN leaf_index, DROP COLUMN log_id;
