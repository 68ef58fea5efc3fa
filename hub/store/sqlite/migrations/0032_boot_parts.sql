-- +goose Up
-- The verdict by parts of each measurement; empty: it was judged before there were parts.
ALTER TABLE boots ADD COLUMN verdict BLOB NOT NULL DEFAULT x'';

-- The public keys with which an owner signs reference manifests. id is the SHA-256
-- of the key's DER form.
CREATE TABLE manifest_keys (
    owner TEXT    NOT NULL,
    id    BLOB    NOT NULL,
    name  TEXT    NOT NULL,
    der   BLOB    NOT NULL,
    added INTEGER NOT NULL,
    PRIMARY KEY (owner, id)
) STRICT, WITHOUT ROWID;

-- id is the SHA-256 of the signed text. manifest is the part that the signature covers.
-- A manifest counts only while its key is in manifest_keys.
CREATE TABLE manifests (
    owner    TEXT    NOT NULL,
    id       BLOB    NOT NULL,
    key      BLOB    NOT NULL,
    added    INTEGER NOT NULL,
    manifest BLOB    NOT NULL,
    signed   BLOB    NOT NULL,
    PRIMARY KEY (owner, id)
) STRICT;

-- version grows with each change of an owner's keys, manifests or decisions.
CREATE TABLE boot_rules (
    owner   TEXT    NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The owner accepts a value of a part. An empty model or token stands for all.
CREATE TABLE boot_decisions (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    owner   TEXT    NOT NULL,
    part    TEXT    NOT NULL,
    value   TEXT    NOT NULL,
    model   TEXT    NOT NULL,
    token   TEXT    NOT NULL,
    made    INTEGER NOT NULL,
    made_by TEXT    NOT NULL,
    words   TEXT    NOT NULL,
    devices INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX boot_decisions_cohort ON boot_decisions (owner, part, value, model, token);
CREATE INDEX boot_decisions_value ON boot_decisions (owner, value);

-- Of each measured device: the version of the rules by which its newest boot was
-- judged, and the system that ran when its boot last matched.
CREATE TABLE boot_judged (
    device   TEXT    NOT NULL PRIMARY KEY,
    owner    TEXT    NOT NULL,
    version  INTEGER NOT NULL,
    model    TEXT    NOT NULL,
    token    TEXT    NOT NULL,
    firmware TEXT    NOT NULL,
    ran      BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX boot_judged_version ON boot_judged (owner, version);

-- The values of the parts of each device's newest boot. bad: 1 unless the part is
-- expected or known.
CREATE TABLE boot_parts (
    device TEXT    NOT NULL,
    part   TEXT    NOT NULL,
    owner  TEXT    NOT NULL,
    value  TEXT    NOT NULL,
    model  TEXT    NOT NULL,
    token  TEXT    NOT NULL,
    bad    INTEGER NOT NULL,
    PRIMARY KEY (device, part)
) STRICT, WITHOUT ROWID;
CREATE INDEX boot_parts_cohort ON boot_parts (owner, part, value, model, bad, token, device);

-- Numbers of rows of boot_parts: n, and n_bad of them with bad = 1. The row with an
-- empty value counts all devices of a model. Code keeps the numbers, in the
-- transaction that changes boot_parts.
CREATE TABLE boot_cohorts (
    owner    TEXT    NOT NULL,
    part     TEXT    NOT NULL,
    model    TEXT    NOT NULL,
    value    TEXT    NOT NULL,
    n        INTEGER NOT NULL,
    n_bad    INTEGER NOT NULL,
    first    INTEGER NOT NULL,
    words    TEXT    NOT NULL,
    cause    TEXT    NOT NULL,
    firmware TEXT    NOT NULL,
    PRIMARY KEY (owner, part, model, value)
) STRICT, WITHOUT ROWID;
CREATE INDEX boot_cohorts_bad ON boot_cohorts (owner, n_bad, part, model) WHERE n_bad > 0 AND part <> 'firmware';
CREATE INDEX boot_cohorts_rare ON boot_cohorts (owner, part, n) WHERE value <> '';
CREATE INDEX boot_cohorts_value ON boot_cohorts (owner, part, value);
CREATE INDEX boot_cohorts_model ON boot_cohorts (owner, part, model, n);

-- +goose Down
DROP TABLE boot_cohorts;
DROP TABLE boot_parts;
DROP TABLE boot_judged;
DROP TABLE boot_decisions;
DROP TABLE boot_rules;
DROP TABLE manifests;
DROP TABLE manifest_keys;
ALTER TABLE boots DROP COLUMN verdict;
