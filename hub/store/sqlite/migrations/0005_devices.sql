-- +goose Up
-- A device may be without an enrolment, and nobody's (owner empty).
CREATE TABLE devices_new (
    id             TEXT    NOT NULL PRIMARY KEY,
    nick           TEXT    NOT NULL,
    owner          TEXT    NOT NULL,
    token          TEXT    NOT NULL,
    enrolment      INTEGER REFERENCES enrolments (id),
    deleted        INTEGER NOT NULL,
    public         INTEGER NOT NULL DEFAULT 0,
    created        INTEGER NOT NULL,
    activated      INTEGER NOT NULL,
    last_seen      INTEGER NOT NULL,
    last_seen_addr TEXT    NOT NULL,
    user_meta      TEXT    NOT NULL,
    device_meta    TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO devices_new SELECT id, nick, owner, token, enrolment, deleted, 0, created, activated, last_seen,
    last_seen_addr, user_meta, device_meta FROM devices;
DROP TABLE devices;
ALTER TABLE devices_new RENAME TO devices;
CREATE UNIQUE INDEX devices_nick ON devices (owner, nick) WHERE deleted = 0;
CREATE INDEX devices_unclaimed ON devices (last_seen) WHERE owner = '' AND deleted = 0;

-- expires 0: never.
CREATE TABLE device_secrets (
    device  TEXT    NOT NULL PRIMARY KEY,
    secret  BLOB    NOT NULL,
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE device_secrets;
DELETE FROM devices WHERE enrolment IS NULL;
CREATE TABLE devices_old (
    id             TEXT    NOT NULL PRIMARY KEY,
    nick           TEXT    NOT NULL,
    owner          TEXT    NOT NULL,
    token          TEXT    NOT NULL,
    enrolment      INTEGER NOT NULL REFERENCES enrolments (id),
    deleted        INTEGER NOT NULL,
    created        INTEGER NOT NULL,
    activated      INTEGER NOT NULL,
    last_seen      INTEGER NOT NULL,
    last_seen_addr TEXT    NOT NULL,
    user_meta      TEXT    NOT NULL,
    device_meta    TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO devices_old SELECT id, nick, owner, token, enrolment, deleted, created, activated, last_seen,
    last_seen_addr, user_meta, device_meta FROM devices;
DROP TABLE devices;
ALTER TABLE devices_old RENAME TO devices;
CREATE UNIQUE INDEX devices_nick ON devices (owner, nick) WHERE deleted = 0;
