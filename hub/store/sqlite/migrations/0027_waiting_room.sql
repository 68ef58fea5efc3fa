-- +goose Up
-- For the pages of an owner's waiting devices in one state.
CREATE INDEX waiting_room ON waiting (owner, state, since) WHERE state <> 'a';

-- +goose Down
DROP INDEX waiting_room;
