-- +goose Up
CREATE TABLE policies (
    owner   TEXT    NOT NULL PRIMARY KEY, -- empty: the hub's
    text    TEXT    NOT NULL,
    updated INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- key is 'k' and the hash of an EK, or 's' and the serial number of an EK
-- certificate.
CREATE TABLE ek_lists (
    owner TEXT NOT NULL,
    key   BLOB NOT NULL,
    note  TEXT NOT NULL,
    PRIMARY KEY (owner, key)
) STRICT, WITHOUT ROWID;

-- state is one letter: w waiting, a approved, d denied. codes and answered are
-- JSON arrays; a row with answered codes does not expire.
CREATE TABLE waiting (
    id            INTEGER PRIMARY KEY,
    owner         TEXT    NOT NULL,
    ek            BLOB    NOT NULL,
    device        TEXT    NOT NULL,
    token         TEXT    NOT NULL,
    state         TEXT    NOT NULL,
    codes         TEXT    NOT NULL,
    answered      TEXT    NOT NULL,
    request_hash  BLOB    NOT NULL,
    manufacturer  TEXT    NOT NULL,
    model         TEXT    NOT NULL,
    firmware      TEXT    NOT NULL,
    prod_model    TEXT    NOT NULL,
    prod_serial   TEXT    NOT NULL,
    key_algorithm TEXT    NOT NULL,
    addr          TEXT    NOT NULL,
    since         INTEGER NOT NULL,
    last_seen     INTEGER NOT NULL,
    expires       INTEGER NOT NULL,
    decided_by    TEXT    NOT NULL,
    decided       INTEGER NOT NULL,
    verdict       BLOB    NOT NULL,
    request       BLOB    NOT NULL
) STRICT;
CREATE UNIQUE INDEX waiting_ek ON waiting (owner, ek);
CREATE INDEX waiting_device ON waiting (device);
CREATE INDEX waiting_since ON waiting (owner, since) WHERE state <> 'a';
CREATE INDEX waiting_expires ON waiting (expires) WHERE answered = '[]';

-- +goose Down
DROP TABLE waiting;
DROP TABLE ek_lists;
DROP TABLE policies;
