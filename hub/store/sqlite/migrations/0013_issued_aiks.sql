-- +goose Up
-- AIK certificates of the first of Pantacor's two steps, until they expire.
CREATE TABLE issued_aiks (
    id          INTEGER PRIMARY KEY,
    ek          BLOB    NOT NULL,
    name        BLOB    NOT NULL,
    device      TEXT    NOT NULL,
    issued      INTEGER NOT NULL,
    expires     INTEGER NOT NULL,
    certificate BLOB    NOT NULL
) STRICT;
CREATE UNIQUE INDEX issued_aiks_key ON issued_aiks (ek, name);
CREATE INDEX issued_aiks_expires ON issued_aiks (expires);

-- Rows were called by the id of the device. Until the machine asks again, which
-- names its row anew, it has a name without any relation to that.
UPDATE waiting SET device = lower(hex(randomblob(12)));

-- A denial revokes an owner's pending enrolments of an EK. Pending rows are
-- few: the index stays small however large the fleet is.
CREATE INDEX enrolments_pending_ek ON enrolments (ek) WHERE state = 'p';

-- +goose Down
DROP INDEX enrolments_pending_ek;
DROP TABLE issued_aiks;
