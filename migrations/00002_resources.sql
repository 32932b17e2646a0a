-- +goose Up

-- Every resource row keeps its wire form: doc is the JSON object an answer holds, written with the row by the
-- trigger below, so that a read joins strings instead of encoding columns. The trigger, not the gateway, writes
-- it: a row changed by hand can never answer with what it used to say.
--
-- A team that still has rows cannot be deleted: setting team_id to null would turn team rows into personal
-- rows, which is another visibility.

CREATE TABLE tasks (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    owner_id   uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    team_id    uuid REFERENCES teams ON DELETE RESTRICT,
    title      text NOT NULL,
    body       text NOT NULL DEFAULT '',
    status     text NOT NULL DEFAULT 'open',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    doc        text NOT NULL DEFAULT ''
);

CREATE TABLE notes (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    owner_id   uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    team_id    uuid REFERENCES teams ON DELETE RESTRICT,
    title      text NOT NULL,
    body       text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    doc        text NOT NULL DEFAULT ''
);

CREATE TABLE memory (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    owner_id        uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    team_id         uuid REFERENCES teams ON DELETE RESTRICT,
    content         text NOT NULL,
    metadata        jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    embedding       vector,
    embedding_model text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    doc             text NOT NULL DEFAULT ''
);

-- secret_sealed is ciphertext under the gateway's keyring, bound to this row. doc never holds it.
CREATE TABLE credentials (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    owner_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    team_id       uuid REFERENCES teams ON DELETE RESTRICT,
    name          text NOT NULL,
    kind          text NOT NULL DEFAULT '',
    url           text NOT NULL DEFAULT '',
    username      text NOT NULL DEFAULT '',
    metadata      jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    secret_sealed bytea,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    doc           text NOT NULL DEFAULT ''
);

-- secret_hash is the SHA-256 of the key; key_prefix is what a person recognises it by.
CREATE TABLE api_keys (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    owner_id    uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    team_id     uuid REFERENCES teams ON DELETE RESTRICT,
    name        text NOT NULL,
    service     text NOT NULL DEFAULT '',
    key_prefix  text NOT NULL DEFAULT '',
    metadata    jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    secret_hash bytea,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    doc         text NOT NULL DEFAULT ''
);

-- RFC 3339 in UTC with microseconds: the form every answer uses, and the form updated_since accepts.
-- +goose StatementBegin
CREATE FUNCTION wire_time(t timestamptz) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT to_char(t AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') $$;
-- +goose StatementEnd

-- write_doc keeps updated_at moving forward and writes the wire form. An UPDATE that sets updated_at itself is
-- a copy from elsewhere and keeps what it set. Re-sealing a secret under another key changes nothing anybody sees.
-- +goose StatementBegin
CREATE FUNCTION write_doc() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND current_setting('mosaic.resealing', true) = 'on' THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.updated_at IS NOT DISTINCT FROM OLD.updated_at THEN
        NEW.updated_at := greatest(now(), OLD.updated_at + interval '1 microsecond');
    END IF;
    CASE TG_TABLE_NAME
    WHEN 'tasks' THEN
        SELECT row_to_json(w)::text INTO STRICT NEW.doc FROM (SELECT NEW.id, NEW.owner_id, NEW.team_id, NEW.title, NEW.body, NEW.status,
            wire_time(NEW.created_at) AS created_at, wire_time(NEW.updated_at) AS updated_at) w;
    WHEN 'notes' THEN
        SELECT row_to_json(w)::text INTO STRICT NEW.doc FROM (SELECT NEW.id, NEW.owner_id, NEW.team_id, NEW.title, NEW.body,
            wire_time(NEW.created_at) AS created_at, wire_time(NEW.updated_at) AS updated_at) w;
    WHEN 'memory' THEN
        SELECT row_to_json(w)::text INTO STRICT NEW.doc FROM (SELECT NEW.id, NEW.owner_id, NEW.team_id, NEW.content, NEW.metadata,
            wire_time(NEW.created_at) AS created_at, wire_time(NEW.updated_at) AS updated_at) w;
    WHEN 'credentials' THEN
        SELECT row_to_json(w)::text INTO STRICT NEW.doc FROM (SELECT NEW.id, NEW.owner_id, NEW.team_id, NEW.name, NEW.kind, NEW.url, NEW.username, NEW.metadata,
            wire_time(NEW.created_at) AS created_at, wire_time(NEW.updated_at) AS updated_at) w;
    WHEN 'api_keys' THEN
        SELECT row_to_json(w)::text INTO STRICT NEW.doc FROM (SELECT NEW.id, NEW.owner_id, NEW.team_id, NEW.name, NEW.service, NEW.key_prefix, NEW.metadata,
            wire_time(NEW.created_at) AS created_at, wire_time(NEW.updated_at) AS updated_at) w;
    END CASE;
    RETURN NEW;
END $$;
-- +goose StatementEnd

-- The two indexes of each table are the two index ranges a list walks: personal rows of one owner, rows of one
-- team, both newest first, so that a page costs its limit and not the table.
-- +goose StatementBegin
DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['tasks', 'notes', 'memory', 'credentials', 'api_keys'] LOOP
        EXECUTE format('CREATE TRIGGER %1$s_doc BEFORE INSERT OR UPDATE ON %1$s FOR EACH ROW EXECUTE FUNCTION write_doc()', t);
        EXECUTE format('CREATE INDEX %1$s_personal ON %1$s (owner_id, updated_at DESC, id DESC) WHERE team_id IS NULL', t);
        EXECUTE format('CREATE INDEX %1$s_team ON %1$s (team_id, updated_at DESC, id DESC)', t);
        EXECUTE format('CREATE INDEX %1$s_owner ON %1$s (owner_id)', t);
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP TABLE tasks, notes, memory, credentials, api_keys;
DROP FUNCTION write_doc;
DROP FUNCTION wire_time;
