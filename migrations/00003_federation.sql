-- +goose Up
CREATE TYPE peer_state AS ENUM ('pending', 'active', 'suspended', 'revoked');
CREATE TYPE grant_status AS ENUM ('pending', 'active', 'revoked', 'expired');

-- A peer is another gateway, on either side: it may hold grants of ours, we may hold credentials of its.
CREATE TABLE federation_peers (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name            text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$' AND name NOT IN ('local', 'all')),
    display_name    text NOT NULL DEFAULT '',
    state           peer_state NOT NULL DEFAULT 'pending',
    endpoint_url    text NOT NULL DEFAULT '',
    ca_root_pem     text NOT NULL DEFAULT '',
    ca_fingerprint  bytea CHECK (octet_length(ca_fingerprint) = 32),
    rate_per_minute integer CHECK (rate_per_minute BETWEEN 1 AND 1000000),
    burst           integer CHECK (burst BETWEEN 1 AND 1000000),
    last_seen_at    timestamptz,
    revoked_at      timestamptz,
    version         bigint NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
);

-- A scope never changes: a changed scope is a new grant. version moves with every other change, and is what a
-- replica's parsed copy of the grant is checked against in the statement that reads the rows.
CREATE TABLE federation_grants (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    peer_id         uuid NOT NULL REFERENCES federation_peers ON DELETE CASCADE,
    subject_user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    scope           jsonb NOT NULL CHECK (jsonb_typeof(scope) = 'object'),
    status          grant_status NOT NULL DEFAULT 'pending',
    rate_per_minute integer CHECK (rate_per_minute BETWEEN 1 AND 1000000),
    burst           integer CHECK (burst BETWEEN 1 AND 1000000),
    cache_seconds   integer NOT NULL DEFAULT 300 CHECK (cache_seconds BETWEEN 0 AND 300),
    rows_per_day    bigint CHECK (rows_per_day > 0),
    expires_at      timestamptz,
    created_by      text NOT NULL DEFAULT '',
    approved_by     uuid REFERENCES users ON DELETE SET NULL,
    approved_at     timestamptz,
    approval_reason text,
    activated_at    timestamptz,
    revoked_at      timestamptz,
    revoked_reason  text,
    version         bigint NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    CHECK ((status = 'revoked') = (revoked_at IS NOT NULL))
);
CREATE INDEX federation_grants_peer ON federation_grants (peer_id);
CREATE INDEX federation_grants_subject ON federation_grants (subject_user_id);
CREATE INDEX federation_grants_expiry ON federation_grants (expires_at) WHERE status IN ('pending', 'active');

-- token_hash is the SHA-256 of the token; the token itself is nowhere. A claim (claim_*) binds the token to one
-- key while the CA signs; claim_generation grows with every claim, and activation must match it.
CREATE TABLE federation_enrollment_tokens (
    id                uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    grant_id          uuid NOT NULL REFERENCES federation_grants ON DELETE CASCADE,
    token_hash        bytea NOT NULL UNIQUE CHECK (octet_length(token_hash) = 32),
    created_by        text NOT NULL DEFAULT '',
    created_at        timestamptz NOT NULL DEFAULT now(),
    expires_at        timestamptz NOT NULL,
    claim_generation  bigint NOT NULL DEFAULT 0,
    claimed_at        timestamptz,
    claim_lease_until timestamptz,
    claim_csr_hash    bytea,
    claim_request_id  text,
    spent_at          timestamptz,
    spent_fingerprint bytea,
    idempotency_hash  bytea,
    request_hash      bytea,
    answer            json -- not jsonb: the same answer again is the same bytes
);
CREATE INDEX federation_enrollment_tokens_grant ON federation_enrollment_tokens (grant_id);

-- Written before the CA is asked: a certificate the CA signed and nobody recorded is found by its serial.
CREATE TABLE federation_sign_attempts (
    serial      text PRIMARY KEY,
    token_id    uuid,
    grant_id    uuid,
    generation  bigint NOT NULL,
    purpose     text NOT NULL CHECK (purpose IN ('enroll', 'renew')),
    outcome     text NOT NULL DEFAULT 'pending' CHECK (outcome IN ('pending', 'recorded', 'refused', 'orphaned', 'revoked')),
    created_at  timestamptz NOT NULL DEFAULT now(),
    lease_until timestamptz NOT NULL,
    settled_at  timestamptz
);
CREATE INDEX federation_sign_attempts_open ON federation_sign_attempts (lease_until) WHERE outcome IN ('pending', 'orphaned');

-- Every certificate this gateway accepts. One that is not here opens nothing, whoever signed it.
CREATE TABLE federation_certificates (
    fingerprint     bytea PRIMARY KEY CHECK (octet_length(fingerprint) = 32),
    serial          text NOT NULL UNIQUE,
    grant_id        uuid NOT NULL REFERENCES federation_grants ON DELETE CASCADE,
    subject_user_id uuid NOT NULL,
    not_before      timestamptz NOT NULL,
    not_after       timestamptz NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    first_used_at   timestamptz,
    revoked_at      timestamptz,
    revoked_reason  text
);
CREATE INDEX federation_certificates_grant ON federation_certificates (grant_id);

-- What the CA still has to be told. The registry decides who is let in; the CA's CRL follows from here, so that
-- a revoke never waits for the CA and a CA that was away learns of it later.
CREATE TABLE federation_ca_revocations (
    serial     text PRIMARY KEY,
    reason     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    attempts   integer NOT NULL DEFAULT 0,
    next_at    timestamptz NOT NULL DEFAULT now(),
    done_at    timestamptz
);
CREATE INDEX federation_ca_revocations_open ON federation_ca_revocations (next_at) WHERE done_at IS NULL;

-- A certificate that leaves the registry, by revocation or because its grant was deleted, is queued for the CA.
-- +goose StatementBegin
CREATE FUNCTION queue_ca_revocation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.revoked_at IS NULL THEN
            INSERT INTO federation_ca_revocations (serial, reason) VALUES (OLD.serial, 'grant deleted') ON CONFLICT (serial) DO NOTHING;
        END IF;
        RETURN OLD;
    END IF;
    IF NEW.revoked_at IS NOT NULL AND OLD.revoked_at IS NULL THEN
        INSERT INTO federation_ca_revocations (serial, reason) VALUES (NEW.serial, coalesce(NEW.revoked_reason, '')) ON CONFLICT (serial) DO NOTHING;
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER federation_certificates_revoked AFTER UPDATE OF revoked_at OR DELETE ON federation_certificates
    FOR EACH ROW EXECUTE FUNCTION queue_ca_revocation();

-- What we hold at other gateways. client_key_pem is sealed under our keyring and bound to this row.
CREATE TABLE federation_credentials (
    id                     uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    peer_id                uuid NOT NULL REFERENCES federation_peers ON DELETE CASCADE,
    state                  text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'active', 'retired')),
    enrollment_hash        bytea UNIQUE,
    idempotency_key        text,
    csr_pem                text NOT NULL DEFAULT '',
    client_key_pem         bytea NOT NULL,
    remote_grant_id        uuid,
    remote_subject_user_id uuid,
    remote_scope           jsonb,
    certificate_chain_pem  text NOT NULL DEFAULT '',
    ca_root_pem            text NOT NULL DEFAULT '',
    federation_url         text NOT NULL DEFAULT '',
    serial                 text,
    not_before             timestamptz,
    not_after              timestamptz,
    renew_after            timestamptz,
    renewal_attempts       integer NOT NULL DEFAULT 0,
    renewal_error          text,
    created_at             timestamptz NOT NULL DEFAULT now(),
    updated_at             timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX federation_credentials_peer ON federation_credentials (peer_id);
CREATE UNIQUE INDEX federation_credentials_grant ON federation_credentials (peer_id, remote_grant_id) WHERE state = 'active';

CREATE TABLE federation_credential_users (
    credential_id uuid NOT NULL REFERENCES federation_credentials ON DELETE CASCADE,
    user_id       uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    PRIMARY KEY (credential_id, user_id)
);
CREATE INDEX federation_credential_users_user ON federation_credential_users (user_id);

CREATE TABLE federation_credential_teams (
    credential_id uuid NOT NULL REFERENCES federation_credentials ON DELETE CASCADE,
    team_id       uuid NOT NULL REFERENCES teams ON DELETE CASCADE,
    PRIMARY KEY (credential_id, team_id)
);
CREATE INDEX federation_credential_teams_team ON federation_credential_teams (team_id);

-- +goose Down
DROP TABLE federation_credential_teams, federation_credential_users, federation_credentials, federation_ca_revocations,
    federation_certificates, federation_sign_attempts, federation_enrollment_tokens, federation_grants, federation_peers;
DROP FUNCTION queue_ca_revocation;
DROP TYPE grant_status;
DROP TYPE peer_state;
