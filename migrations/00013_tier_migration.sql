-- +goose Up

-- How far the copy of a local tier into this database has come. While it is not finished nobody serves from here: the
-- same grants would be served from two places.
CREATE TABLE tier_migration (
    only_one    boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    source      text NOT NULL,                -- the database it comes from, by where that lives
    tables      jsonb NOT NULL DEFAULT '{}',  -- rows of each table that is copied whole
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);

-- +goose Down
DROP TABLE tier_migration;
