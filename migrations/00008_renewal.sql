-- +goose Up

-- A grant has at most two live certificates: the one in use, and the one that is to replace it. The first use of the
-- newer sets retire_at of the older. lifetime_seconds is what was asked for at the first enrollment: a renewal asks for
-- the same again, also after one that was cut short. renewal_request_hash and renewal_answer give the same answer to the
-- same request again; the answer is forgotten when its certificate has been used or is over, the hash stays.
ALTER TABLE federation_certificates
    ADD COLUMN retire_at            timestamptz,
    ADD COLUMN lifetime_seconds     bigint CHECK (lifetime_seconds > 0),
    ADD COLUMN renewal_request_hash bytea CHECK (octet_length(renewal_request_hash) = 32),
    ADD COLUMN renewal_answer       json; -- not jsonb: the same answer again is the same bytes
CREATE UNIQUE INDEX federation_certificates_renewal ON federation_certificates (grant_id, renewal_request_hash) WHERE renewal_request_hash IS NOT NULL;
CREATE INDEX federation_certificates_retiring ON federation_certificates (retire_at) WHERE retire_at IS NOT NULL AND revoked_at IS NULL;
CREATE INDEX federation_certificates_answered ON federation_certificates (not_after) WHERE renewal_answer IS NOT NULL;

-- +goose Down
ALTER TABLE federation_certificates DROP COLUMN renewal_answer, DROP COLUMN renewal_request_hash, DROP COLUMN lifetime_seconds, DROP COLUMN retire_at;
