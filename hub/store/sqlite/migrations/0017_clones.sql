-- +goose Up
-- clone is empty, or what clones.record comes to.
ALTER TABLE devices ADD COLUMN clone TEXT NOT NULL DEFAULT '';

CREATE TABLE clones (
    device  TEXT    NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    record  BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE clones;
ALTER TABLE devices DROP COLUMN clone;
