-- +goose Up
-- Fewer changes for each onboarding. The pending enrolments of a device are found by its EK.
DROP INDEX enrolments_pending_device;

-- One condition instead of nine for each counter that changes: the triggers of device_search now keep
-- hub_counts too, and one trigger keeps the size of a counter and removes the counter at 0.
DROP TRIGGER fleet_counts_grows;
DROP TRIGGER fleet_counts_shrinks;
DROP TRIGGER fleet_counts_ends;
DROP TRIGGER devices_are_counted;
DROP TRIGGER devices_change_number;
DROP TRIGGER makers_devices_are_counted;
DROP TRIGGER makers_devices_change_number;
DROP TRIGGER quiet_devices_are_counted;
DROP TRIGGER quiet_devices_change_number;
DROP TRIGGER device_search_counted;
DROP TRIGGER device_search_state_counted;
DROP TRIGGER device_search_state_changes;
DROP TRIGGER device_search_values_change;
DROP TRIGGER device_search_discounted;

-- +goose StatementBegin
CREATE TRIGGER fleet_counts_changes AFTER UPDATE OF n ON fleet_counts WHEN NEW.n >= (2 << NEW.size) OR NEW.n < (1 << NEW.size)
BEGIN
    UPDATE fleet_counts SET size = size + iif(NEW.n >= (2 << NEW.size), 1, -1)
    WHERE NEW.n > 0 AND owner = NEW.owner AND field = NEW.field AND value = NEW.value;
    DELETE FROM fleet_counts WHERE NEW.n = 0 AND owner = NEW.owner AND field = NEW.field AND value = NEW.value;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER device_search_counted AFTER INSERT ON device_search
BEGIN
    INSERT INTO fleet_counts (owner, field, value, n, size) VALUES
        (NEW.owner, 'total', '', 1, 0), (NEW.owner, 'model', NEW.model, 1, 0), (NEW.owner, 'maker', NEW.maker, 1, 0),
        (NEW.owner, 'firmware', NEW.firmware, 1, 0), (NEW.owner, 'token', NEW.token, 1, 0)
    ON CONFLICT (owner, field, value) DO UPDATE SET n = n + 1;
    INSERT INTO hub_counts (field, value, n) VALUES ('devices', '', 1), ('maker', NEW.maker, 1)
    ON CONFLICT (field, value) DO UPDATE SET n = n + 1;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER device_search_state_counted AFTER INSERT ON device_search
WHEN NEW.quiet = 1 OR NEW.boot IN ('changed', 'refused') OR NEW.status <> '' OR NEW.clone <> ''
BEGIN
    INSERT INTO fleet_counts (owner, field, value, n, size)
    SELECT NEW.owner, 'state', value, 1, 0 FROM (
        SELECT 'quiet' AS value, NEW.quiet = 1 AS is_so
        UNION ALL SELECT 'boot-changed', NEW.boot IN ('changed', 'refused')
        UNION ALL SELECT 'updating', NEW.status IN ('NEW', 'QUEUED', 'DOWNLOADING', 'SYNCING', 'INPROGRESS', 'TESTING')
        UNION ALL SELECT 'failed', NEW.status IN ('ERROR', 'WONTGO')
        UNION ALL SELECT 'cloned', NEW.clone <> '') WHERE is_so
    ON CONFLICT (owner, field, value) DO UPDATE SET n = n + 1;
    UPDATE hub_counts SET n = n + 1 WHERE NEW.quiet = 1 AND field = 'quiet' AND value = '';
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER device_search_state_changes AFTER UPDATE OF quiet, boot, status, clone ON device_search
WHEN OLD.quiet <> NEW.quiet OR OLD.boot <> NEW.boot OR OLD.status <> NEW.status OR OLD.clone <> NEW.clone
BEGIN
    INSERT INTO fleet_counts (owner, field, value, n, size)
    SELECT NEW.owner, 'state', value, is_so - was_so, 0 FROM (
        SELECT 'quiet' AS value, NEW.quiet = 1 AS is_so, OLD.quiet = 1 AS was_so
        UNION ALL SELECT 'boot-changed', NEW.boot IN ('changed', 'refused'), OLD.boot IN ('changed', 'refused')
        UNION ALL SELECT 'updating', NEW.status IN ('NEW', 'QUEUED', 'DOWNLOADING', 'SYNCING', 'INPROGRESS', 'TESTING'),
            OLD.status IN ('NEW', 'QUEUED', 'DOWNLOADING', 'SYNCING', 'INPROGRESS', 'TESTING')
        UNION ALL SELECT 'failed', NEW.status IN ('ERROR', 'WONTGO'), OLD.status IN ('ERROR', 'WONTGO')
        UNION ALL SELECT 'cloned', NEW.clone <> '', OLD.clone <> '') WHERE is_so <> was_so
    ON CONFLICT (owner, field, value) DO UPDATE SET n = n + excluded.n;
    UPDATE hub_counts SET n = n + NEW.quiet - OLD.quiet WHERE OLD.quiet <> NEW.quiet AND field = 'quiet' AND value = '';
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER device_search_values_change AFTER UPDATE OF model, maker, firmware, token ON device_search
WHEN OLD.model <> NEW.model OR OLD.maker <> NEW.maker OR OLD.firmware <> NEW.firmware OR OLD.token <> NEW.token
BEGIN
    INSERT INTO fleet_counts (owner, field, value, n, size)
    SELECT NEW.owner, field, value, 1, 0 FROM (
        SELECT 'model' AS field, NEW.model AS value, OLD.model <> NEW.model AS changed
        UNION ALL SELECT 'maker', NEW.maker, OLD.maker <> NEW.maker
        UNION ALL SELECT 'firmware', NEW.firmware, OLD.firmware <> NEW.firmware
        UNION ALL SELECT 'token', NEW.token, OLD.token <> NEW.token) WHERE changed
    ON CONFLICT (owner, field, value) DO UPDATE SET n = n + 1;
    UPDATE fleet_counts SET n = n - 1 WHERE OLD.model <> NEW.model AND owner = OLD.owner AND field = 'model' AND value = OLD.model;
    UPDATE fleet_counts SET n = n - 1 WHERE OLD.maker <> NEW.maker AND owner = OLD.owner AND field = 'maker' AND value = OLD.maker;
    UPDATE fleet_counts SET n = n - 1 WHERE OLD.firmware <> NEW.firmware AND owner = OLD.owner AND field = 'firmware' AND value = OLD.firmware;
    UPDATE fleet_counts SET n = n - 1 WHERE OLD.token <> NEW.token AND owner = OLD.owner AND field = 'token' AND value = OLD.token;
    INSERT INTO hub_counts (field, value, n) SELECT 'maker', NEW.maker, 1 WHERE OLD.maker <> NEW.maker
    ON CONFLICT (field, value) DO UPDATE SET n = n + 1;
    UPDATE hub_counts SET n = n - 1 WHERE OLD.maker <> NEW.maker AND field = 'maker' AND value = OLD.maker;
    DELETE FROM hub_counts WHERE OLD.maker <> NEW.maker AND field = 'maker' AND value = OLD.maker AND n = 0;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER device_search_discounted AFTER DELETE ON device_search
BEGIN
    UPDATE fleet_counts SET n = n - 1 WHERE owner = OLD.owner AND field = 'total' AND value = '';
    UPDATE fleet_counts SET n = n - 1 WHERE owner = OLD.owner AND field = 'model' AND value = OLD.model;
    UPDATE fleet_counts SET n = n - 1 WHERE owner = OLD.owner AND field = 'maker' AND value = OLD.maker;
    UPDATE fleet_counts SET n = n - 1 WHERE owner = OLD.owner AND field = 'firmware' AND value = OLD.firmware;
    UPDATE fleet_counts SET n = n - 1 WHERE owner = OLD.owner AND field = 'token' AND value = OLD.token;
    UPDATE fleet_counts SET n = n - 1 WHERE OLD.quiet = 1 AND owner = OLD.owner AND field = 'state' AND value = 'quiet';
    UPDATE fleet_counts SET n = n - 1 WHERE OLD.boot IN ('changed', 'refused') AND owner = OLD.owner AND field = 'state' AND value = 'boot-changed';
    UPDATE fleet_counts SET n = n - 1 WHERE OLD.status IN ('NEW', 'QUEUED', 'DOWNLOADING', 'SYNCING', 'INPROGRESS', 'TESTING')
        AND owner = OLD.owner AND field = 'state' AND value = 'updating';
    UPDATE fleet_counts SET n = n - 1 WHERE OLD.status IN ('ERROR', 'WONTGO') AND owner = OLD.owner AND field = 'state' AND value = 'failed';
    UPDATE fleet_counts SET n = n - 1 WHERE OLD.clone <> '' AND owner = OLD.owner AND field = 'state' AND value = 'cloned';
    UPDATE hub_counts SET n = n - 1 WHERE field = 'devices' AND value = '';
    UPDATE hub_counts SET n = n - 1 WHERE field = 'maker' AND value = OLD.maker;
    DELETE FROM hub_counts WHERE field = 'maker' AND value = OLD.maker AND n = 0;
    UPDATE hub_counts SET n = n - 1 WHERE OLD.quiet = 1 AND field = 'quiet' AND value = '';
END;
-- +goose StatementEnd

-- +goose Down
DROP TRIGGER fleet_counts_changes;
DROP TRIGGER device_search_counted;
DROP TRIGGER device_search_state_counted;
DROP TRIGGER device_search_state_changes;
DROP TRIGGER device_search_values_change;
DROP TRIGGER device_search_discounted;
-- +goose StatementBegin
CREATE TRIGGER fleet_counts_grows AFTER UPDATE OF n ON fleet_counts WHEN NEW.n >= (2 << NEW.size)
BEGIN
    UPDATE fleet_counts SET size = size + 1 WHERE owner = NEW.owner AND field = NEW.field AND value = NEW.value;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER fleet_counts_shrinks AFTER UPDATE OF n ON fleet_counts WHEN NEW.n < (1 << NEW.size) AND NEW.n > 0
BEGIN
    UPDATE fleet_counts SET size = size - 1 WHERE owner = NEW.owner AND field = NEW.field AND value = NEW.value;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER fleet_counts_ends AFTER UPDATE OF n ON fleet_counts WHEN NEW.n = 0
BEGIN
    DELETE FROM fleet_counts WHERE owner = NEW.owner AND field = NEW.field AND value = NEW.value;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER device_search_counted AFTER INSERT ON device_search
BEGIN
    INSERT INTO fleet_counts (owner, field, value, n, size) VALUES
        (NEW.owner, 'total', '', 1, 0), (NEW.owner, 'model', NEW.model, 1, 0), (NEW.owner, 'maker', NEW.maker, 1, 0),
        (NEW.owner, 'firmware', NEW.firmware, 1, 0), (NEW.owner, 'token', NEW.token, 1, 0)
    ON CONFLICT (owner, field, value) DO UPDATE SET n = n + 1;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER device_search_state_counted AFTER INSERT ON device_search
WHEN NEW.quiet = 1 OR NEW.boot IN ('changed', 'refused') OR NEW.status <> '' OR NEW.clone <> ''
BEGIN
    INSERT INTO fleet_counts (owner, field, value, n, size)
    SELECT NEW.owner, 'state', value, 1, 0 FROM (
        SELECT 'quiet' AS value, NEW.quiet = 1 AS is_so
        UNION ALL SELECT 'boot-changed', NEW.boot IN ('changed', 'refused')
        UNION ALL SELECT 'updating', NEW.status IN ('NEW', 'QUEUED', 'DOWNLOADING', 'SYNCING', 'INPROGRESS', 'TESTING')
        UNION ALL SELECT 'failed', NEW.status IN ('ERROR', 'WONTGO')
        UNION ALL SELECT 'cloned', NEW.clone <> '') WHERE is_so
    ON CONFLICT (owner, field, value) DO UPDATE SET n = n + 1;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER device_search_state_changes AFTER UPDATE OF quiet, boot, status, clone ON device_search
WHEN OLD.quiet <> NEW.quiet OR OLD.boot <> NEW.boot OR OLD.status <> NEW.status OR OLD.clone <> NEW.clone
BEGIN
    INSERT INTO fleet_counts (owner, field, value, n, size)
    SELECT NEW.owner, 'state', value, is_so - was_so, 0 FROM (
        SELECT 'quiet' AS value, NEW.quiet = 1 AS is_so, OLD.quiet = 1 AS was_so
        UNION ALL SELECT 'boot-changed', NEW.boot IN ('changed', 'refused'), OLD.boot IN ('changed', 'refused')
        UNION ALL SELECT 'updating', NEW.status IN ('NEW', 'QUEUED', 'DOWNLOADING', 'SYNCING', 'INPROGRESS', 'TESTING'),
            OLD.status IN ('NEW', 'QUEUED', 'DOWNLOADING', 'SYNCING', 'INPROGRESS', 'TESTING')
        UNION ALL SELECT 'failed', NEW.status IN ('ERROR', 'WONTGO'), OLD.status IN ('ERROR', 'WONTGO')
        UNION ALL SELECT 'cloned', NEW.clone <> '', OLD.clone <> '') WHERE is_so <> was_so
    ON CONFLICT (owner, field, value) DO UPDATE SET n = n + excluded.n;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER device_search_values_change AFTER UPDATE OF model, maker, firmware, token ON device_search
WHEN OLD.model <> NEW.model OR OLD.maker <> NEW.maker OR OLD.firmware <> NEW.firmware OR OLD.token <> NEW.token
BEGIN
    INSERT INTO fleet_counts (owner, field, value, n, size)
    SELECT NEW.owner, field, value, 1, 0 FROM (
        SELECT 'model' AS field, NEW.model AS value, OLD.model <> NEW.model AS changed
        UNION ALL SELECT 'maker', NEW.maker, OLD.maker <> NEW.maker
        UNION ALL SELECT 'firmware', NEW.firmware, OLD.firmware <> NEW.firmware
        UNION ALL SELECT 'token', NEW.token, OLD.token <> NEW.token) WHERE changed
    ON CONFLICT (owner, field, value) DO UPDATE SET n = n + 1;
    UPDATE fleet_counts SET n = n - 1 WHERE OLD.model <> NEW.model AND owner = OLD.owner AND field = 'model' AND value = OLD.model;
    UPDATE fleet_counts SET n = n - 1 WHERE OLD.maker <> NEW.maker AND owner = OLD.owner AND field = 'maker' AND value = OLD.maker;
    UPDATE fleet_counts SET n = n - 1 WHERE OLD.firmware <> NEW.firmware AND owner = OLD.owner AND field = 'firmware' AND value = OLD.firmware;
    UPDATE fleet_counts SET n = n - 1 WHERE OLD.token <> NEW.token AND owner = OLD.owner AND field = 'token' AND value = OLD.token;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER device_search_discounted AFTER DELETE ON device_search
BEGIN
    UPDATE fleet_counts SET n = n - 1 WHERE owner = OLD.owner AND field = 'total' AND value = '';
    UPDATE fleet_counts SET n = n - 1 WHERE owner = OLD.owner AND field = 'model' AND value = OLD.model;
    UPDATE fleet_counts SET n = n - 1 WHERE owner = OLD.owner AND field = 'maker' AND value = OLD.maker;
    UPDATE fleet_counts SET n = n - 1 WHERE owner = OLD.owner AND field = 'firmware' AND value = OLD.firmware;
    UPDATE fleet_counts SET n = n - 1 WHERE owner = OLD.owner AND field = 'token' AND value = OLD.token;
    UPDATE fleet_counts SET n = n - 1 WHERE OLD.quiet = 1 AND owner = OLD.owner AND field = 'state' AND value = 'quiet';
    UPDATE fleet_counts SET n = n - 1 WHERE OLD.boot IN ('changed', 'refused') AND owner = OLD.owner AND field = 'state' AND value = 'boot-changed';
    UPDATE fleet_counts SET n = n - 1 WHERE OLD.status IN ('NEW', 'QUEUED', 'DOWNLOADING', 'SYNCING', 'INPROGRESS', 'TESTING')
        AND owner = OLD.owner AND field = 'state' AND value = 'updating';
    UPDATE fleet_counts SET n = n - 1 WHERE OLD.status IN ('ERROR', 'WONTGO') AND owner = OLD.owner AND field = 'state' AND value = 'failed';
    UPDATE fleet_counts SET n = n - 1 WHERE OLD.clone <> '' AND owner = OLD.owner AND field = 'state' AND value = 'cloned';
END;
-- +goose StatementEnd
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
CREATE INDEX enrolments_pending_device ON enrolments (device) WHERE state = 'p';
