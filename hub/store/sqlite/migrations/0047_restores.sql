-- +goose Up
-- 1: the hub was restored, and may have lost uses of the token.
ALTER TABLE join_tokens ADD COLUMN paused INTEGER NOT NULL DEFAULT 0;

-- Devices with a certificate of this hub whose rows were lost by a restore, until they onboard again.
CREATE TABLE lost_devices (
    id          TEXT NOT NULL PRIMARY KEY,
    owner       TEXT NOT NULL,
    token       TEXT NOT NULL,
    certificate BLOB NOT NULL,
    issued      INTEGER NOT NULL,
    first_seen  INTEGER NOT NULL,
    last_seen   INTEGER NOT NULL,
    addr        TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE lost_devices;
ALTER TABLE join_tokens DROP COLUMN paused;
