-- +goose Up
-- 0002 was altered after hubs had run it: a database made between commits
-- b6517b2 and bea67b2 lacks this table, and every other one has it already.
CREATE TABLE IF NOT EXISTS trusted_certificates (
    id          INTEGER PRIMARY KEY,
    fingerprint BLOB    NOT NULL,
    kind        TEXT    NOT NULL CHECK (kind IN ('root', 'link', 'distrusted')),
    source      TEXT    NOT NULL,
    added       INTEGER NOT NULL,
    der         BLOB    NOT NULL
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS trusted_certificates_fingerprint ON trusted_certificates (fingerprint);

-- +goose Down
-- Nothing: 0002 has the table in a database of today.
SELECT 1;
