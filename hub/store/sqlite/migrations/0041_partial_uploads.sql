-- +goose Up
-- Uploads that clients send in parts. size counts in usage until the upload ends;
-- it is 0 for an upload that is not in parts. begun is the time of the last progress.
ALTER TABLE uploads ADD COLUMN partial INTEGER NOT NULL DEFAULT 0;
ALTER TABLE uploads ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
ALTER TABLE uploads ADD COLUMN received INTEGER NOT NULL DEFAULT 0;
ALTER TABLE uploads ADD COLUMN token TEXT NOT NULL DEFAULT '';
CREATE UNIQUE INDEX uploads_partial ON uploads (owner, sum) WHERE partial = 1;

-- +goose Down
DROP INDEX uploads_partial;
ALTER TABLE uploads DROP COLUMN token;
ALTER TABLE uploads DROP COLUMN received;
ALTER TABLE uploads DROP COLUMN size;
ALTER TABLE uploads DROP COLUMN partial;
