-- +goose Up
CREATE TABLE boots (
    id          INTEGER PRIMARY KEY,
    device      TEXT    NOT NULL,
    time        INTEGER NOT NULL,
    state       TEXT    NOT NULL,
    measurement BLOB    NOT NULL,
    changes     BLOB    NOT NULL,
    nonce       BLOB    NOT NULL,
    attest      BLOB    NOT NULL,
    signature   BLOB    NOT NULL,
    log         BLOB    NOT NULL
) STRICT;
CREATE INDEX boots_device ON boots (device, id);

-- reference is NULL until there is one. requested: measure again.
CREATE TABLE boot_devices (
    device    TEXT    NOT NULL PRIMARY KEY,
    state     TEXT    NOT NULL,
    reference BLOB,
    requested INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE boot_devices;
DROP TABLE boots;
