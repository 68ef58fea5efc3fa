-- +goose Up
-- The conditions that last now and need the operator. One row for each name, and the
-- program has few names.
CREATE TABLE alarms (
    name  TEXT    NOT NULL PRIMARY KEY,
    since INTEGER NOT NULL,
    fact  TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

-- The quiet devices of all owners.
INSERT INTO hub_counts (field, value, n)
    SELECT 'quiet', '', coalesce(sum(n), 0) FROM fleet_counts WHERE field = 'state' AND value = 'quiet';
-- +goose StatementBegin
CREATE TRIGGER quiet_devices_are_counted AFTER INSERT ON fleet_counts WHEN NEW.field = 'state' AND NEW.value = 'quiet'
BEGIN
    UPDATE hub_counts SET n = n + NEW.n WHERE field = 'quiet' AND value = '';
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER quiet_devices_change_number AFTER UPDATE OF n ON fleet_counts WHEN NEW.field = 'state' AND NEW.value = 'quiet'
BEGIN
    UPDATE hub_counts SET n = n + NEW.n - OLD.n WHERE field = 'quiet' AND value = '';
END;
-- +goose StatementEnd

-- +goose Down
DROP TRIGGER quiet_devices_change_number;
DROP TRIGGER quiet_devices_are_counted;
DELETE FROM hub_counts WHERE field = 'quiet';
DROP TABLE alarms;
