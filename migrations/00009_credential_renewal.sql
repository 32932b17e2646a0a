-- +goose Up

-- The next key of a credential, sealed, and its certificate request: stored before the request is sent, so that a crash
-- sends the same request again. renewal_started_at is the first try of this renewal, renewal_next_at the next one.
ALTER TABLE federation_credentials
    ADD COLUMN renewal_key_pem    bytea,
    ADD COLUMN renewal_csr_pem    text,
    ADD COLUMN renewal_started_at timestamptz,
    ADD COLUMN renewal_next_at    timestamptz;
CREATE INDEX federation_credentials_renewal ON federation_credentials (coalesce(renewal_next_at, renew_after)) WHERE state = 'active';

-- +goose Down
ALTER TABLE federation_credentials DROP COLUMN renewal_next_at, DROP COLUMN renewal_started_at, DROP COLUMN renewal_csr_pem, DROP COLUMN renewal_key_pem;
