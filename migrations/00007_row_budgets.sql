-- +goose Up

-- How many rows a grant with a budget (federation_grants.rows_per_day) was given on a day of UTC. One row for each
-- such grant, counted before the answer leaves: what is counted is never less than what was delivered.
CREATE TABLE federation_row_budgets (
    grant_id  uuid PRIMARY KEY REFERENCES federation_grants ON DELETE CASCADE,
    day       date NOT NULL,
    delivered bigint NOT NULL CHECK (delivered >= 0),
    granted   bigint NOT NULL -- what the last reservation got; the statement that makes it reads it back
) WITH (fillfactor = 50); -- every answer of the grant rewrites its row: room for that on the same page

-- +goose Down
DROP TABLE federation_row_budgets;
