-- +goose Up

-- The SHA-256 of the root that a certificate leads to: while a CA is rolled over this tells which certificates are of
-- the old one. Those from before this column are of whatever root was in trust then.
ALTER TABLE federation_certificates ADD COLUMN ca_root bytea CHECK (octet_length(ca_root) = 32);

-- When a peer is asked next for the roots of its CA.
ALTER TABLE federation_credentials ADD COLUMN roots_next_at timestamptz NOT NULL DEFAULT now() + interval '1 hour';
CREATE INDEX federation_credentials_roots ON federation_credentials (roots_next_at) WHERE state = 'active';

-- +goose Down
ALTER TABLE federation_credentials DROP COLUMN roots_next_at;
ALTER TABLE federation_certificates DROP COLUMN ca_root;
