-- +goose Up
-- For the revisions that were posted to an owner's devices, the newest first. The
-- first step of a trail is what the device reported itself.
CREATE INDEX steps_posted ON steps (owner, step_time) WHERE rev > 0;

-- +goose Down
DROP INDEX steps_posted;
