-- +goose Up
-- How long owners keep the logs of their devices. age is in seconds, bytes is for each
-- device; 0 means the hub's bound. trimming is 1 while logs may exceed a new value of
-- bytes: the logs of devices up to the nick place are cut already.
CREATE TABLE log_rules (
    owner    TEXT    NOT NULL PRIMARY KEY,
    age      INTEGER NOT NULL,
    bytes    INTEGER NOT NULL,
    trimming INTEGER NOT NULL,
    place    TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE log_rules;
