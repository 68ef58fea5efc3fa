-- +goose Up
-- The hash by which a token is found that devices without a TPM may show;
-- NULL for all others.
ALTER TABLE join_tokens ADD COLUMN auto_hash BLOB;
CREATE UNIQUE INDEX join_tokens_auto ON join_tokens (auto_hash) WHERE auto_hash IS NOT NULL;

-- +goose Down
DROP INDEX join_tokens_auto;
ALTER TABLE join_tokens DROP COLUMN auto_hash;
