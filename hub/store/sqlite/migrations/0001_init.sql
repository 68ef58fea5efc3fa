-- Times are microseconds since 1970-01-01 UTC. Hashes and TPM names are raw
-- bytes; ids are text as they are shown. Metas are JSON objects.

-- +goose Up
CREATE TABLE accounts (
    id            TEXT    NOT NULL PRIMARY KEY,
    nick          TEXT    NOT NULL COLLATE NOCASE,
    email         TEXT    NOT NULL COLLATE NOCASE,
    password_hash TEXT    NOT NULL,
    created       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX accounts_nick ON accounts (nick);
CREATE UNIQUE INDEX accounts_email ON accounts (email) WHERE email <> '';

CREATE TABLE sessions (
    token_hash BLOB    NOT NULL PRIMARY KEY,
    account    TEXT    NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    created    INTEGER NOT NULL,
    expires    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_account ON sessions (account);

CREATE TABLE join_tokens (
    id                TEXT    NOT NULL PRIMARY KEY,
    owner             TEXT    NOT NULL,
    nick              TEXT    NOT NULL,
    public_key        BLOB    NOT NULL,
    expires           INTEGER NOT NULL,
    max_uses          INTEGER NOT NULL,
    uses              INTEGER NOT NULL,
    disabled          INTEGER NOT NULL,
    default_user_meta TEXT    NOT NULL,
    created           INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX join_tokens_owner ON join_tokens (owner, created);

-- Which devices a token was counted for, besides those that came first with it:
-- devices.token says that. Rows outlive their device: a use is not given back.
CREATE TABLE token_uses (
    token  TEXT NOT NULL REFERENCES join_tokens (id),
    device TEXT NOT NULL,
    PRIMARY KEY (token, device)
) STRICT, WITHOUT ROWID;

-- state is one letter: p pending, a active, s superseded, r revoked, x expired.
-- One letter always, so that a change of state leaves the length of the record
-- as it was and SQLite overwrites it in place, without touching the long
-- columns, which stand last for the same reason.
--
-- previous is the enrolment that this one superseded: the chain from a
-- device's active enrolment leads through all that the device ever activated.
CREATE TABLE enrolments (
    id             INTEGER PRIMARY KEY,
    request_hash   BLOB    NOT NULL,
    state          TEXT    NOT NULL,
    device         TEXT    NOT NULL,
    owner          TEXT    NOT NULL,
    token          TEXT    NOT NULL,
    generation     INTEGER NOT NULL,
    ek             BLOB    NOT NULL,
    iak_name       BLOB    NOT NULL,
    idevid_name    BLOB    NOT NULL,
    iak_hash       BLOB    NOT NULL,
    idevid_hash    BLOB    NOT NULL,
    created        INTEGER NOT NULL,
    expires        INTEGER NOT NULL,
    previous       INTEGER REFERENCES enrolments (id),
    manufacturer   TEXT    NOT NULL,
    model          TEXT    NOT NULL,
    firmware       TEXT    NOT NULL,
    prod_model     TEXT    NOT NULL,
    prod_serial    TEXT    NOT NULL,
    key_algorithm  TEXT    NOT NULL,
    iak_public     BLOB    NOT NULL,
    ek_certificate BLOB    NOT NULL,
    iak_cert       BLOB    NOT NULL,
    idevid_cert    BLOB    NOT NULL,
    verdict        BLOB    NOT NULL,
    request        BLOB    NOT NULL
) STRICT;
CREATE UNIQUE INDEX enrolments_request ON enrolments (request_hash);
CREATE UNIQUE INDEX enrolments_idevid ON enrolments (idevid_hash);
-- Both cover pending rows alone, which are few and young: they stay small
-- however large the fleet is.
CREATE INDEX enrolments_pending_expires ON enrolments (expires) WHERE state = 'p';
CREATE INDEX enrolments_pending_device ON enrolments (device) WHERE state = 'p';

-- The EK registry. The certificate and what it says are in the enrolment.
CREATE TABLE tpms (
    ek         BLOB    NOT NULL PRIMARY KEY,
    owner      TEXT    NOT NULL,
    device     TEXT    NOT NULL,
    generation INTEGER NOT NULL,
    enrolment  INTEGER NOT NULL REFERENCES enrolments (id),
    first_seen INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The AIK registry. A row belongs to a live device: a deleted device's rows go
-- with it. The public area and the certificate are in the enrolment.
CREATE TABLE aiks (
    name       BLOB    NOT NULL PRIMARY KEY,
    ek         BLOB    NOT NULL,
    device     TEXT    NOT NULL,
    enrolment  INTEGER NOT NULL REFERENCES enrolments (id),
    registered INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE devices (
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
CREATE UNIQUE INDEX devices_nick ON devices (owner, nick) WHERE deleted = 0;

CREATE TABLE events (
    seq     INTEGER PRIMARY KEY,
    time    INTEGER NOT NULL,
    kind    TEXT    NOT NULL,
    code    TEXT    NOT NULL,
    owner   TEXT    NOT NULL,
    device  TEXT    NOT NULL,
    token   TEXT    NOT NULL,
    addr    TEXT    NOT NULL,
    message TEXT    NOT NULL
) STRICT;
CREATE INDEX events_owner ON events (owner, seq);
CREATE INDEX events_device ON events (device, seq) WHERE device <> '';

-- +goose Down
DROP TABLE events;
DROP TABLE devices;
DROP TABLE aiks;
DROP TABLE tpms;
DROP TABLE enrolments;
DROP TABLE token_uses;
DROP TABLE join_tokens;
DROP TABLE sessions;
DROP TABLE accounts;
