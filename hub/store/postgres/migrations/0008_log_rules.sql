-- usable from 7
-- How long owners keep the logs of their devices. age is in seconds, bytes is for each device; 0 means the
-- hub's bound. trimming is 1 while logs may exceed a new value of bytes: the logs of devices up to the nick
-- place are cut already. A hub without this migration keeps logs up to its own bounds.
CREATE TABLE log_rules (
    owner    text COLLATE "C" NOT NULL PRIMARY KEY,
    age      bigint NOT NULL,
    bytes    bigint NOT NULL,
    trimming bigint NOT NULL,
    place    text COLLATE "C" NOT NULL
);
