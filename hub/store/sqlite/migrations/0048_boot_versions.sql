-- +goose Up
-- The firmware's version on the device; the same as in boot_judged.
ALTER TABLE boot_parts ADD COLUMN firmware TEXT NOT NULL DEFAULT '';
UPDATE boot_parts SET firmware = coalesce((SELECT j.firmware FROM boot_judged j WHERE j.device = boot_parts.device), '');
DROP INDEX boot_parts_cohort;
CREATE INDEX boot_parts_cohort ON boot_parts (owner, part, value, model, bad, firmware, token, device);

-- Numbers of rows of boot_parts by the firmware's version: n, and n_bad of them with
-- bad = 1. Code keeps the numbers, in the transaction that changes boot_parts.
CREATE TABLE boot_versions (
    owner    TEXT    NOT NULL,
    part     TEXT    NOT NULL,
    value    TEXT    NOT NULL,
    model    TEXT    NOT NULL,
    firmware TEXT    NOT NULL,
    n        INTEGER NOT NULL,
    n_bad    INTEGER NOT NULL,
    PRIMARY KEY (owner, part, value, model, firmware)
) STRICT, WITHOUT ROWID;
INSERT INTO boot_versions (owner, part, value, model, firmware, n, n_bad)
    SELECT owner, part, value, model, firmware, count(*), sum(bad) FROM boot_parts GROUP BY owner, part, value, model, firmware;

-- An empty firmware stands for all versions.
ALTER TABLE boot_decisions ADD COLUMN firmware TEXT NOT NULL DEFAULT '';
DROP INDEX boot_decisions_cohort;
CREATE UNIQUE INDEX boot_decisions_cohort ON boot_decisions (owner, part, value, model, token, firmware);

-- +goose Down
DELETE FROM boot_decisions WHERE firmware <> '';
DROP INDEX boot_decisions_cohort;
CREATE UNIQUE INDEX boot_decisions_cohort ON boot_decisions (owner, part, value, model, token);
ALTER TABLE boot_decisions DROP COLUMN firmware;
DROP TABLE boot_versions;
DROP INDEX boot_parts_cohort;
CREATE INDEX boot_parts_cohort ON boot_parts (owner, part, value, model, bad, token, device);
ALTER TABLE boot_parts DROP COLUMN firmware;
