-- +goose Up
-- What several hubs on one database share. Times are those of the database. fence
-- grows whenever another hub takes the lease.
CREATE TABLE leases (
    name    TEXT    NOT NULL PRIMARY KEY,
    holder  TEXT    NOT NULL,
    fence   INTEGER NOT NULL,
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- AUTOINCREMENT: a hub asks for the messages after the last one that it has read,
-- even if that was removed.
CREATE TABLE replica_messages (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    origin TEXT    NOT NULL,
    at     INTEGER NOT NULL,
    body   BLOB    NOT NULL
) STRICT;
CREATE INDEX replica_messages_at ON replica_messages (at);

CREATE TABLE temporary_values (
    kind    TEXT    NOT NULL,
    key     BLOB    NOT NULL,
    value   BLOB    NOT NULL,
    expires INTEGER NOT NULL,
    PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX temporary_values_expires ON temporary_values (kind, expires);

-- +goose Down
DROP TABLE temporary_values;
DROP TABLE replica_messages;
DROP TABLE leases;
