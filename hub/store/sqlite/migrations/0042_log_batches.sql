-- +goose Up
-- The log entries of one request are one row: they have one time and the numbers
-- first to first + n - 1. bytes is their size as it counts against the bounds. The
-- first byte of data says how the rest is encoded: see sqlstore/logbatch.go.
CREATE TABLE log_batches (
    first   INTEGER NOT NULL PRIMARY KEY,
    n       INTEGER NOT NULL,
    device  TEXT    NOT NULL,
    owner   TEXT    NOT NULL,
    created INTEGER NOT NULL,
    bytes   INTEGER NOT NULL,
    data    BLOB    NOT NULL
) STRICT;

INSERT INTO log_batches (first, n, device, owner, created, bytes, data)
SELECT seq, 1, device, owner, created, 64 + length(CAST(level || source || plat || rev || message AS BLOB)),
    CAST('j' || json_array(sec, nano, level, source, plat, rev, message) AS BLOB)
FROM logs;

-- The number of the last entry. Numbers are not used again, even if all entries are
-- removed, because clients remember them.
CREATE TABLE log_counter (
    id   INTEGER NOT NULL PRIMARY KEY,
    last INTEGER NOT NULL
) STRICT;
INSERT INTO log_counter (id, last)
SELECT 1, max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'logs'), 0), coalesce((SELECT max(seq) FROM logs), 0));

DROP TABLE logs;
CREATE INDEX log_batches_owner ON log_batches (owner, created, first);
CREATE INDEX log_batches_device ON log_batches (device, created, first);
CREATE INDEX log_batches_created ON log_batches (created);

-- +goose Down
CREATE TABLE logs (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    device  TEXT    NOT NULL,
    owner   TEXT    NOT NULL,
    created INTEGER NOT NULL,
    sec     INTEGER NOT NULL,
    nano    INTEGER NOT NULL,
    level   TEXT    NOT NULL,
    source  TEXT    NOT NULL,
    plat    TEXT    NOT NULL,
    rev     TEXT    NOT NULL,
    message TEXT    NOT NULL
) STRICT;
CREATE INDEX logs_owner ON logs (owner, created, seq);
CREATE INDEX logs_device ON logs (device, created, seq);
CREATE INDEX logs_created ON logs (created);
DROP TABLE log_counter;
DROP TABLE log_batches;
