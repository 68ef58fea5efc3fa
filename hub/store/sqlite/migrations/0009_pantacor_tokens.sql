-- +goose Up
-- What the ownership proofs of Pantacor's programs are keyed with, encrypted by
-- the hub; NULL for tokens that were not made for them.
ALTER TABLE join_tokens ADD COLUMN pantacor_key BLOB;

-- +goose Down
ALTER TABLE join_tokens DROP COLUMN pantacor_key;
