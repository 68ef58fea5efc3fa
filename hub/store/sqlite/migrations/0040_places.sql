-- +goose Up
-- Where the bytes of each object are. An object from before has no row: its place is
-- the empty one. Each upload has a place of its own.
CREATE TABLE contents (
    sum   BLOB NOT NULL PRIMARY KEY,
    place TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE uploads (
    place TEXT    NOT NULL PRIMARY KEY,
    owner TEXT    NOT NULL,
    sum   BLOB    NOT NULL,
    begun INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX uploads_begun ON uploads (begun);

-- A place that was given up is never used again, so nothing needs to be condemned.
DROP TABLE condemned;

-- +goose Down
CREATE TABLE condemned (
    sum BLOB NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;
DROP TABLE uploads;
DROP TABLE contents;
