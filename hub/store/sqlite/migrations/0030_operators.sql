-- +goose Up
-- operator is 1 for an account with the role operator, which only a command on
-- the hub's machine gives. signed_in is when a session last began; 0: never.
ALTER TABLE accounts ADD COLUMN operator INTEGER NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN signed_in INTEGER NOT NULL DEFAULT 0;
UPDATE accounts SET signed_in = coalesce((SELECT max(created) FROM sessions s WHERE s.account = accounts.id), 0);

-- Sums over all owners: accounts, disabled (accounts), devices, bytes (of usage)
-- and, for each value, maker (devices). Triggers keep them, so that no page has
-- to read all rows.
CREATE TABLE hub_counts (
    field TEXT    NOT NULL,
    value TEXT    NOT NULL COLLATE NOCASE,
    n     INTEGER NOT NULL,
    PRIMARY KEY (field, value)
) STRICT, WITHOUT ROWID;
INSERT INTO hub_counts (field, value, n)
    SELECT 'accounts', '', count(*) FROM accounts
    UNION ALL SELECT 'disabled', '', count(*) FROM accounts WHERE disabled <> 0
    UNION ALL SELECT 'bytes', '', coalesce(sum(bytes), 0) FROM usage
    UNION ALL SELECT 'devices', '', coalesce(sum(n), 0) FROM fleet_counts WHERE field = 'total';
INSERT INTO hub_counts (field, value, n)
    SELECT 'maker', value, sum(n) FROM fleet_counts WHERE field = 'maker' GROUP BY value;

-- +goose StatementBegin
CREATE TRIGGER account_is_counted AFTER INSERT ON accounts
BEGIN
    UPDATE hub_counts SET n = n + 1 WHERE field = 'accounts' AND value = '';
    UPDATE hub_counts SET n = n + NEW.disabled WHERE field = 'disabled' AND value = '';
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER account_is_counted_no_more AFTER DELETE ON accounts
BEGIN
    UPDATE hub_counts SET n = n - 1 WHERE field = 'accounts' AND value = '';
    UPDATE hub_counts SET n = n - OLD.disabled WHERE field = 'disabled' AND value = '';
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER account_changes_disabled AFTER UPDATE OF disabled ON accounts
BEGIN
    UPDATE hub_counts SET n = n + NEW.disabled - OLD.disabled WHERE field = 'disabled' AND value = '';
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER usage_begins AFTER INSERT ON usage
BEGIN
    UPDATE hub_counts SET n = n + NEW.bytes WHERE field = 'bytes' AND value = '';
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER usage_changes AFTER UPDATE OF bytes ON usage
BEGIN
    UPDATE hub_counts SET n = n + NEW.bytes - OLD.bytes WHERE field = 'bytes' AND value = '';
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER usage_ends AFTER DELETE ON usage
BEGIN
    UPDATE hub_counts SET n = n - OLD.bytes WHERE field = 'bytes' AND value = '';
END;
-- +goose StatementEnd

-- A row of fleet_counts is deleted only after its number became 0.
-- +goose StatementBegin
CREATE TRIGGER devices_are_counted AFTER INSERT ON fleet_counts WHEN NEW.field = 'total'
BEGIN
    UPDATE hub_counts SET n = n + NEW.n WHERE field = 'devices' AND value = '';
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER devices_change_number AFTER UPDATE OF n ON fleet_counts WHEN NEW.field = 'total'
BEGIN
    UPDATE hub_counts SET n = n + NEW.n - OLD.n WHERE field = 'devices' AND value = '';
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER makers_devices_are_counted AFTER INSERT ON fleet_counts WHEN NEW.field = 'maker'
BEGIN
    INSERT INTO hub_counts (field, value, n) VALUES ('maker', NEW.value, NEW.n)
    ON CONFLICT (field, value) DO UPDATE SET n = n + excluded.n;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER makers_devices_change_number AFTER UPDATE OF n ON fleet_counts WHEN NEW.field = 'maker'
BEGIN
    UPDATE hub_counts SET n = n + NEW.n - OLD.n WHERE field = 'maker' AND value = NEW.value;
    DELETE FROM hub_counts WHERE field = 'maker' AND value = NEW.value AND n = 0;
END;
-- +goose StatementEnd

-- +goose Down
DROP TRIGGER makers_devices_change_number;
DROP TRIGGER makers_devices_are_counted;
DROP TRIGGER devices_change_number;
DROP TRIGGER devices_are_counted;
DROP TRIGGER usage_ends;
DROP TRIGGER usage_changes;
DROP TRIGGER usage_begins;
DROP TRIGGER account_changes_disabled;
DROP TRIGGER account_is_counted_no_more;
DROP TRIGGER account_is_counted;
DROP TABLE hub_counts;
ALTER TABLE accounts DROP COLUMN signed_in;
ALTER TABLE accounts DROP COLUMN operator;
