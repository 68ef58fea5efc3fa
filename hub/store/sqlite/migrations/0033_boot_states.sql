-- +goose Up
-- The states of the parts of each device's newest boot, as a JSON object.
ALTER TABLE boot_judged ADD COLUMN states TEXT NOT NULL DEFAULT '{}';

-- +goose Down
ALTER TABLE boot_judged DROP COLUMN states;
