-- +goose Up

-- What a search looks at, beside the row it is about. search is written by a trigger, so that a row can be found as
-- soon as it is there; rows that were here before this migration have none, and are read as they stand until upkeep
-- has come by. embedding_model says what an embedding is worth: it is compared with those of the same model only.
--
-- There is no GIN and no vector index, on purpose. Such an index holds everybody's rows: what a search costs, and
-- with an approximate one even what it finds, would depend on rows outside the caller's scope.
ALTER TABLE tasks ADD COLUMN search tsvector, ADD COLUMN embedding vector, ADD COLUMN embedding_model text;
ALTER TABLE notes ADD COLUMN search tsvector, ADD COLUMN embedding vector, ADD COLUMN embedding_model text;
ALTER TABLE memory ADD COLUMN search tsvector;
ALTER TABLE credentials ADD COLUMN search tsvector;
ALTER TABLE api_keys ADD COLUMN search tsvector;

-- Each word as it is written, in any language, and its English stem. Weights: A for what a thing is called, B for
-- what it says, C and D for what is beside it. Only the first 50,000 characters of a text count: a tsvector holds no
-- more than 1 MiB, and a row must never be refused for being hard to index.
-- +goose StatementBegin
CREATE FUNCTION search_words(t text, weight "char") RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT setweight(to_tsvector('pg_catalog.simple'::regconfig, left(t, 50000)) || to_tsvector('pg_catalog.english'::regconfig, left(t, 50000)), weight) $$;
CREATE FUNCTION search_vector(a text, b text, c text, d jsonb) RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN a <> '' THEN search_words(a, 'A') ELSE '' END || CASE WHEN b <> '' THEN search_words(b, 'B') ELSE '' END
    || CASE WHEN c <> '' THEN search_words(c, 'C') ELSE '' END
    || CASE WHEN d <> '{}' THEN setweight(jsonb_to_tsvector('pg_catalog.simple'::regconfig, d, '["string"]'), 'D') ELSE '' END $$;
-- +goose StatementEnd

-- A secret is in none of these, nor is the metadata of what has one.
-- +goose StatementBegin
CREATE FUNCTION write_search() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    CASE TG_TABLE_NAME
    WHEN 'tasks', 'notes' THEN
        IF TG_OP = 'UPDATE' THEN
            IF NEW.title = OLD.title AND NEW.body = OLD.body THEN
                RETURN NEW;
            END IF;
            NEW.embedding_model := NULL;
            NEW.embedding := NULL;
        END IF;
        NEW.search := search_vector(NEW.title, NEW.body, '', '{}');
    WHEN 'memory' THEN
        IF TG_OP = 'UPDATE' AND NEW.content <> OLD.content THEN
            NEW.embedding_model := NULL;
            NEW.embedding := NULL;
        END IF;
        NEW.search := search_vector('', NEW.content, '', NEW.metadata);
    WHEN 'credentials' THEN
        NEW.search := search_vector(NEW.name, NEW.kind, NEW.url || ' ' || NEW.username, '{}');
    WHEN 'api_keys' THEN
        NEW.search := search_vector(NEW.name, NEW.service, NEW.key_prefix, '{}');
    END CASE;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER tasks_search BEFORE INSERT OR UPDATE OF title, body ON tasks FOR EACH ROW EXECUTE FUNCTION write_search();
CREATE TRIGGER notes_search BEFORE INSERT OR UPDATE OF title, body ON notes FOR EACH ROW EXECUTE FUNCTION write_search();
CREATE TRIGGER memory_search BEFORE INSERT OR UPDATE OF content, metadata ON memory FOR EACH ROW EXECUTE FUNCTION write_search();
CREATE TRIGGER credentials_search BEFORE INSERT OR UPDATE OF name, kind, url, username ON credentials FOR EACH ROW EXECUTE FUNCTION write_search();
CREATE TRIGGER api_keys_search BEFORE INSERT OR UPDATE OF name, service, key_prefix ON api_keys FOR EACH ROW EXECUTE FUNCTION write_search();

-- Rows that wait for an embedding. priority 0 is somebody's write, 1 a row that the sweep found. A row is taken by
-- moving next_at, so that nothing is locked while an endpoint is asked.
CREATE TABLE embedding_queue (
    resource text NOT NULL CHECK (resource IN ('tasks', 'notes', 'memory')),
    row_id   uuid NOT NULL,
    priority smallint NOT NULL DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0,
    next_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (resource, row_id)
);
CREATE INDEX embedding_queue_next ON embedding_queue (priority, next_at);

-- The model of the whole cluster, the length of its vectors once one was seen, and how far the sweep for rows of
-- another model has come.
CREATE TABLE embedding_state (
    only_one   boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    model      text NOT NULL,
    dims       integer,
    swept      text NOT NULL DEFAULT '', -- the resource the sweep is in; 'done' at its end
    swept_to   uuid,
    changed_at timestamptz NOT NULL DEFAULT now()
);

-- A statement's rows are queued together: an import is one more statement, not one for each row.
-- +goose StatementBegin
CREATE FUNCTION queue_embedding() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO embedding_queue (resource, row_id) SELECT TG_TABLE_NAME, id FROM written WHERE embedding_model IS NULL
    ON CONFLICT (resource, row_id) DO UPDATE SET priority = 0, attempts = 0, next_at = now();
    RETURN NULL;
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['tasks', 'notes', 'memory'] LOOP
        EXECUTE format('CREATE TRIGGER %1$s_embedding_insert AFTER INSERT ON %1$s REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION queue_embedding()', t);
        EXECUTE format('CREATE TRIGGER %1$s_embedding_update AFTER UPDATE ON %1$s REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION queue_embedding()', t);
    END LOOP;
END $$;
-- +goose StatementEnd

-- The two small tables are brought up to date here. The large ones are not, so that this migration takes no time on
-- them; the sweep does them while the gateway serves. What nobody sees of a row does not move its times.
SELECT set_config('mosaic.resealing', 'on', true);
UPDATE credentials SET search = search_vector(name, kind, url || ' ' || username, '{}');
UPDATE api_keys SET search = search_vector(name, service, key_prefix, '{}');

-- +goose Down
DROP TABLE embedding_queue, embedding_state;
-- +goose StatementBegin
DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['tasks', 'notes', 'memory', 'credentials', 'api_keys'] LOOP
        EXECUTE format('DROP TRIGGER %1$s_search ON %1$s', t);
        IF t IN ('tasks', 'notes', 'memory') THEN
            EXECUTE format('DROP TRIGGER %1$s_embedding_insert ON %1$s', t);
            EXECUTE format('DROP TRIGGER %1$s_embedding_update ON %1$s', t);
        END IF;
        EXECUTE format('ALTER TABLE %I DROP COLUMN search', t);
    END LOOP;
END $$;
-- +goose StatementEnd
ALTER TABLE tasks DROP COLUMN embedding, DROP COLUMN embedding_model;
ALTER TABLE notes DROP COLUMN embedding, DROP COLUMN embedding_model;
DROP FUNCTION queue_embedding;
DROP FUNCTION write_search;
DROP FUNCTION search_vector;
DROP FUNCTION search_words;
