-- usable from 5
-- Uploads that clients send in parts. size counts in usage until the upload ends; it is 0 for an upload that
-- is not in parts. begun is the time of the last progress.
ALTER TABLE uploads ADD COLUMN partial bigint NOT NULL DEFAULT 0;
ALTER TABLE uploads ADD COLUMN size bigint NOT NULL DEFAULT 0;
ALTER TABLE uploads ADD COLUMN received bigint NOT NULL DEFAULT 0;
ALTER TABLE uploads ADD COLUMN token text COLLATE "C" NOT NULL DEFAULT '';
CREATE UNIQUE INDEX uploads_partial ON uploads (owner, sum) WHERE partial = 1;
