-- usable from 2
-- The states of the parts of each device's newest boot, as a JSON object.
ALTER TABLE boot_judged ADD COLUMN states text COLLATE "C" NOT NULL DEFAULT '{}';
