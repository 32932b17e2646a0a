-- +goose Up

-- A token's row is written twice more, when it is claimed and when it is spent, and none of that is indexed: with room
-- on its page neither needs an entry in an index.
ALTER TABLE federation_enrollment_tokens SET (fillfactor = 40);

-- +goose Down
ALTER TABLE federation_enrollment_tokens RESET (fillfactor);
