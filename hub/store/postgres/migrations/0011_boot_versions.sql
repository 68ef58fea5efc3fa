-- The firmware's version on the device; the same as in boot_judged.
ALTER TABLE boot_parts ADD COLUMN firmware text COLLATE "C" NOT NULL DEFAULT '';
UPDATE boot_parts SET firmware = j.firmware FROM boot_judged j WHERE j.device = boot_parts.device;
DROP INDEX boot_parts_cohort;
CREATE INDEX boot_parts_cohort ON boot_parts (owner, part, value, model, bad, firmware, token, device);

-- Numbers of rows of boot_parts by the firmware's version: n, and n_bad of them with
-- bad = 1. Code keeps the numbers, in the transaction that changes boot_parts. A hub
-- without this migration does not keep them, and would apply a decision for one
-- version to all versions, so it must not use the database any more.
CREATE TABLE boot_versions (
    owner    text COLLATE "C" NOT NULL,
    part     text COLLATE "C" NOT NULL,
    value    text COLLATE "C" NOT NULL,
    model    text COLLATE "C" NOT NULL,
    firmware text COLLATE "C" NOT NULL,
    n        bigint NOT NULL,
    n_bad    bigint NOT NULL,
    PRIMARY KEY (owner, part, value, model, firmware)
);
INSERT INTO boot_versions (owner, part, value, model, firmware, n, n_bad)
    SELECT owner, part, value, model, firmware, count(*), sum(bad) FROM boot_parts GROUP BY owner, part, value, model, firmware;

-- An empty firmware stands for all versions.
ALTER TABLE boot_decisions ADD COLUMN firmware text COLLATE "C" NOT NULL DEFAULT '';
DROP INDEX boot_decisions_cohort;
CREATE UNIQUE INDEX boot_decisions_cohort ON boot_decisions (owner, part, value, model, token, firmware);
