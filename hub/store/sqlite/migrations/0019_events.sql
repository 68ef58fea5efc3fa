-- +goose Up
-- Who did it: a prn or "operator:" and a name, the nick at that time, by what
-- means, and which API token.
ALTER TABLE events ADD COLUMN actor TEXT NOT NULL DEFAULT '';
ALTER TABLE events ADD COLUMN actor_name TEXT NOT NULL DEFAULT '';
ALTER TABLE events ADD COLUMN means TEXT NOT NULL DEFAULT '';
ALTER TABLE events ADD COLUMN credential TEXT NOT NULL DEFAULT '';

-- A row with a key stands for all events of its day that are alike: count of
-- them, the last one at the time last. time is the first one's.
ALTER TABLE events ADD COLUMN count INTEGER NOT NULL DEFAULT 1;
ALTER TABLE events ADD COLUMN last INTEGER NOT NULL DEFAULT 0; -- 0: as time
ALTER TABLE events ADD COLUMN alike BLOB;
CREATE UNIQUE INDEX events_alike ON events (alike) WHERE alike IS NOT NULL;

-- +goose Down
DROP INDEX events_alike;
ALTER TABLE events DROP COLUMN alike;
ALTER TABLE events DROP COLUMN last;
ALTER TABLE events DROP COLUMN count;
ALTER TABLE events DROP COLUMN credential;
ALTER TABLE events DROP COLUMN means;
ALTER TABLE events DROP COLUMN actor_name;
ALTER TABLE events DROP COLUMN actor;
