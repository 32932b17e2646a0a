-- +goose Up

-- One row for every federated answer and every administrative act, committed before the answer leaves.
-- peer_id follows the peer and becomes null with it; peer_ref and peer_name say for ever who it was.
-- Partitioned by month, so that retention drops a partition instead of deleting rows.
CREATE TABLE federation_audit_log (
    id                      uuid NOT NULL DEFAULT gen_random_uuid(),
    request_id              text NOT NULL,
    direction               text NOT NULL CHECK (direction IN ('inbound', 'outbound', 'admin')),
    actor                   text NOT NULL DEFAULT '',
    peer_id                 uuid REFERENCES federation_peers ON DELETE SET NULL,
    peer_ref                uuid,
    peer_name               text NOT NULL DEFAULT '',
    grant_id                uuid,
    subject_user_id         uuid,
    certificate_fingerprint bytea,
    remote_address          text NOT NULL DEFAULT '',
    verb                    text NOT NULL,
    resource                text NOT NULL DEFAULT '',
    status_code             integer NOT NULL,
    outcome                 text NOT NULL CHECK (outcome IN ('ok', 'denied', 'error')),
    denied_reason           text NOT NULL DEFAULT '',
    detail                  text NOT NULL DEFAULT '',
    query_hash              bytea,
    rows_out                integer NOT NULL DEFAULT 0,
    bytes_out               bigint NOT NULL DEFAULT 0,
    duration                interval NOT NULL DEFAULT '0',
    occurrences             integer NOT NULL DEFAULT 1,
    created_at              timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (created_at, id)
) PARTITION BY RANGE (created_at);

CREATE INDEX federation_audit_log_recent ON federation_audit_log (created_at DESC);
CREATE INDEX federation_audit_log_peer ON federation_audit_log (peer_id, created_at DESC);
CREATE INDEX federation_audit_log_subject ON federation_audit_log (subject_user_id, created_at DESC);

-- A row outside every month still has a place: an audit insert never fails for want of a partition.
CREATE TABLE federation_audit_log_default PARTITION OF federation_audit_log DEFAULT;

-- Makes the month of from_day and the months_ahead after it. Safe to call at any time, from any replica.
-- +goose StatementBegin
CREATE FUNCTION ensure_audit_partitions(from_day date, months_ahead integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    first date;
    part  text;
BEGIN
    FOR i IN 0..months_ahead LOOP
        first := (date_trunc('month', from_day) + make_interval(months => i))::date;
        part := 'federation_audit_log_' || to_char(first, 'YYYYMM');
        IF to_regclass(part) IS NULL THEN
            EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF federation_audit_log FOR VALUES FROM (%L) TO (%L)',
                part, first::timestamp AT TIME ZONE 'UTC', (first + interval '1 month')::timestamp AT TIME ZONE 'UTC');
        END IF;
    END LOOP;
END $$;
-- +goose StatementEnd
SELECT ensure_audit_partitions((now() AT TIME ZONE 'UTC')::date, 3);

-- +goose Down
DROP TABLE federation_audit_log;
DROP FUNCTION ensure_audit_partitions;
