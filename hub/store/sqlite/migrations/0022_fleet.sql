-- +goose Up
-- What searches compare and sort by: one row for each device that has an owner
-- and is not deleted. Triggers keep it and the counters in step with devices,
-- boot_devices and steps. A trigger runs in the transaction of the change, and
-- no present or future statement can forget it.
--
-- The key is the default order, so a walk through an owner's devices reads these
-- short rows one after another, and each index ends with the nick.
ALTER TABLE devices ADD COLUMN quiet INTEGER NOT NULL DEFAULT 0;

-- seen is last_seen of a quiet device, and the largest integer for an active
-- one: so a contact of an active device changes no row of this table. due is
-- when an active device was last seen as MarkQuiet last knew it.
CREATE TABLE device_search (
    owner    TEXT    NOT NULL,
    nick     TEXT    NOT NULL,
    device   TEXT    NOT NULL,
    created  INTEGER NOT NULL,
    seen     INTEGER NOT NULL,
    quiet    INTEGER NOT NULL,
    due      INTEGER NOT NULL,
    model    TEXT    NOT NULL COLLATE NOCASE,
    maker    TEXT    NOT NULL COLLATE NOCASE,
    firmware TEXT    NOT NULL COLLATE NOCASE,
    serial   TEXT    NOT NULL COLLATE NOCASE,
    token    TEXT    NOT NULL,
    boot     TEXT    NOT NULL, -- empty: never measured
    rev      INTEGER NOT NULL, -- of the newest revision; -1: no trail
    status   TEXT    NOT NULL,
    progress INTEGER NOT NULL, -- percent
    clone    TEXT    NOT NULL,
    PRIMARY KEY (owner, nick)
) STRICT, WITHOUT ROWID;
CREATE INDEX device_search_created ON device_search (owner, created);
CREATE INDEX device_search_seen ON device_search (owner, seen);
CREATE INDEX device_search_model ON device_search (owner, model);
CREATE INDEX device_search_maker ON device_search (owner, maker);
CREATE INDEX device_search_firmware ON device_search (owner, firmware);
CREATE INDEX device_search_token ON device_search (owner, token);
CREATE INDEX device_search_due ON device_search (due) WHERE quiet = 0;
CREATE INDEX device_search_quiet ON device_search (owner) WHERE quiet = 1;
CREATE INDEX device_search_changed ON device_search (owner) WHERE boot IN ('changed', 'refused');
CREATE INDEX device_search_updating ON device_search (owner)
    WHERE status IN ('NEW', 'QUEUED', 'DOWNLOADING', 'SYNCING', 'INPROGRESS', 'TESTING');
CREATE INDEX device_search_failed ON device_search (owner) WHERE status IN ('ERROR', 'WONTGO');
CREATE INDEX device_search_cloned ON device_search (owner) WHERE clone <> '';

-- Text from the start of each word to the end of its field, in lower case. Unlike
-- the prefix queries of FTS5, which first collect all rows of a prefix, and of
-- all owners, a range of this table can be read row by row.
CREATE TABLE device_words (
    owner TEXT NOT NULL,
    word  TEXT NOT NULL,
    nick  TEXT NOT NULL,
    PRIMARY KEY (owner, word, nick)
) STRICT, WITHOUT ROWID;

-- term: the first 8 bytes of the SHA-256 of owner, key and value of a metadata
-- member.
CREATE TABLE device_meta_terms (
    term INTEGER NOT NULL,
    nick TEXT    NOT NULL,
    PRIMARY KEY (term, nick)
) STRICT, WITHOUT ROWID;

-- Exact numbers of an owner's devices. field is total (value empty), state,
-- model, maker, firmware or token; no row has the number 0. size is the binary
-- logarithm of n, rounded down: an index on n itself would change with each
-- device.
CREATE TABLE fleet_counts (
    owner TEXT    NOT NULL,
    field TEXT    NOT NULL,
    value TEXT    NOT NULL COLLATE NOCASE,
    n     INTEGER NOT NULL,
    size  INTEGER NOT NULL,
    PRIMARY KEY (owner, field, value)
) STRICT, WITHOUT ROWID;
CREATE INDEX fleet_counts_size ON fleet_counts (owner, field, size);

-- Devices that an owner got, by day since 1970. Deleting a device changes no
-- number.
CREATE TABLE fleet_arrivals (
    owner TEXT    NOT NULL,
    day   INTEGER NOT NULL,
    n     INTEGER NOT NULL,
    PRIMARY KEY (owner, day)
) STRICT, WITHOUT ROWID;

CREATE INDEX join_tokens_nick ON join_tokens (owner, nick COLLATE NOCASE, created, id);
CREATE INDEX waiting_undecided ON waiting (owner) WHERE state = 'w';

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

-- A new device has neither a measurement nor a trail.
-- +goose StatementBegin
CREATE TRIGGER device_joins_fleet AFTER INSERT ON devices WHEN NEW.owner <> '' AND NEW.deleted = 0
BEGIN
    INSERT INTO device_search (owner, nick, device, created, seen, quiet, due, model, maker, firmware, serial, token,
        boot, rev, status, progress, clone)
    SELECT NEW.owner, NEW.nick, NEW.id, NEW.created, iif(NEW.quiet, NEW.last_seen, 9223372036854775807), NEW.quiet,
        NEW.last_seen, coalesce(e.prod_model, ''), coalesce(e.manufacturer, ''), coalesce(e.firmware, ''),
        coalesce(e.prod_serial, ''), NEW.token, '', -1, '', 0, NEW.clone
    FROM (SELECT 1) LEFT JOIN enrolments e ON e.id = NEW.enrolment;
    INSERT INTO fleet_arrivals (owner, day, n) VALUES (NEW.owner, NEW.activated / 86400000000, 1)
    ON CONFLICT (owner, day) DO UPDATE SET n = n + 1;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER device_changes_owner AFTER UPDATE OF owner ON devices WHEN OLD.owner <> NEW.owner AND NEW.deleted = 0
BEGIN
    DELETE FROM device_search WHERE owner = OLD.owner AND nick = OLD.nick;
    INSERT INTO device_search (owner, nick, device, created, seen, quiet, due, model, maker, firmware, serial, token,
        boot, rev, status, progress, clone)
    SELECT NEW.owner, NEW.nick, NEW.id, NEW.created, iif(NEW.quiet, NEW.last_seen, 9223372036854775807), NEW.quiet,
        NEW.last_seen, coalesce(e.prod_model, ''), coalesce(e.manufacturer, ''), coalesce(e.firmware, ''),
        coalesce(e.prod_serial, ''), NEW.token, coalesce(b.state, ''), coalesce(s.rev, -1), coalesce(s.status, ''),
        0, NEW.clone
    FROM (SELECT 1) LEFT JOIN enrolments e ON e.id = NEW.enrolment LEFT JOIN boot_devices b ON b.device = NEW.id
        LEFT JOIN trails t ON t.device = NEW.id LEFT JOIN steps s ON s.device = t.device AND s.rev = t.rev
    WHERE NEW.owner <> '';
    INSERT INTO fleet_arrivals (owner, day, n) SELECT NEW.owner, NEW.activated / 86400000000, 1 WHERE NEW.owner <> ''
    ON CONFLICT (owner, day) DO UPDATE SET n = n + 1;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER device_changes_nick AFTER UPDATE OF nick ON devices
WHEN OLD.nick <> NEW.nick AND OLD.owner = NEW.owner AND NEW.owner <> '' AND NEW.deleted = 0
BEGIN
    UPDATE device_search SET nick = NEW.nick WHERE owner = OLD.owner AND nick = OLD.nick;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER device_leaves_fleet AFTER UPDATE OF deleted ON devices WHEN NEW.deleted = 1 AND OLD.deleted = 0
BEGIN
    DELETE FROM device_search WHERE owner = OLD.owner AND nick = OLD.nick;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER device_is_removed AFTER DELETE ON devices WHEN OLD.owner <> '' AND OLD.deleted = 0
BEGIN
    DELETE FROM device_search WHERE owner = OLD.owner AND nick = OLD.nick;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER device_changes_enrolment AFTER UPDATE OF enrolment ON devices
WHEN OLD.enrolment IS NOT NEW.enrolment AND NEW.owner <> '' AND NEW.deleted = 0
BEGIN
    UPDATE device_search SET
        model = coalesce((SELECT prod_model FROM enrolments WHERE id = NEW.enrolment), ''),
        maker = coalesce((SELECT manufacturer FROM enrolments WHERE id = NEW.enrolment), ''),
        firmware = coalesce((SELECT firmware FROM enrolments WHERE id = NEW.enrolment), ''),
        serial = coalesce((SELECT prod_serial FROM enrolments WHERE id = NEW.enrolment), '')
    WHERE owner = NEW.owner AND nick = NEW.nick;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER device_changes_quiet AFTER UPDATE OF quiet ON devices
WHEN OLD.quiet <> NEW.quiet AND NEW.owner <> '' AND NEW.deleted = 0
BEGIN
    UPDATE device_search SET quiet = NEW.quiet, due = NEW.last_seen, seen = iif(NEW.quiet, NEW.last_seen, 9223372036854775807)
    WHERE owner = NEW.owner AND nick = NEW.nick;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER device_changes_token_or_clone AFTER UPDATE OF token, clone ON devices
WHEN (OLD.clone <> NEW.clone OR OLD.token <> NEW.token) AND NEW.owner <> '' AND NEW.deleted = 0
BEGIN
    UPDATE device_search SET clone = NEW.clone, token = NEW.token WHERE owner = NEW.owner AND nick = NEW.nick;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER boot_state_begins AFTER INSERT ON boot_devices
BEGIN
    UPDATE device_search SET boot = NEW.state
    WHERE (owner, nick) = (SELECT owner, nick FROM devices WHERE id = NEW.device AND deleted = 0) AND boot <> NEW.state;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER boot_state_changes AFTER UPDATE OF state ON boot_devices WHEN OLD.state <> NEW.state
BEGIN
    UPDATE device_search SET boot = NEW.state
    WHERE (owner, nick) = (SELECT owner, nick FROM devices WHERE id = NEW.device AND deleted = 0);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER boot_state_ends AFTER DELETE ON boot_devices
BEGIN
    UPDATE device_search SET boot = ''
    WHERE (owner, nick) = (SELECT owner, nick FROM devices WHERE id = OLD.device AND deleted = 0);
END;
-- +goose StatementEnd

-- A trail grows only at its end, so a new step is the newest.
-- +goose StatementBegin
CREATE TRIGGER step_begins AFTER INSERT ON steps
BEGIN
    UPDATE device_search SET rev = NEW.rev, status = NEW.status, progress = 0
    WHERE (owner, nick) = (SELECT owner, nick FROM devices WHERE id = NEW.device AND deleted = 0);
END;
-- +goose StatementEnd
-- The progress was written as compact JSON. Its number becomes the percentage as
-- in trail.ReadReport.
-- +goose StatementBegin
CREATE TRIGGER step_changes AFTER UPDATE OF status, progress ON steps
BEGIN
    UPDATE device_search SET status = NEW.status, progress = CASE
        WHEN NOT json_valid(CAST(NEW.progress AS TEXT)) THEN 0
        WHEN json_type(CAST(NEW.progress AS TEXT), '$.progress') IN ('integer', 'real')
            THEN CAST(min(max(json_extract(CAST(NEW.progress AS TEXT), '$.progress'), 0), 100) AS INTEGER)
        ELSE 0 END
    WHERE (owner, nick) = (SELECT owner, nick FROM devices WHERE id = NEW.device AND deleted = 0) AND rev = NEW.rev;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER account_ends_counts AFTER DELETE ON accounts
BEGIN
    DELETE FROM fleet_arrivals WHERE owner = OLD.id;
END;
-- +goose StatementEnd

INSERT INTO device_search (owner, nick, device, created, seen, quiet, due, model, maker, firmware, serial, token,
    boot, rev, status, progress, clone)
SELECT d.owner, d.nick, d.id, d.created, 9223372036854775807, 0, d.last_seen, coalesce(e.prod_model, ''),
    coalesce(e.manufacturer, ''), coalesce(e.firmware, ''), coalesce(e.prod_serial, ''), d.token, coalesce(b.state, ''),
    coalesce(s.rev, -1), coalesce(s.status, ''), 0, d.clone
FROM devices d LEFT JOIN enrolments e ON e.id = d.enrolment LEFT JOIN boot_devices b ON b.device = d.id
    LEFT JOIN trails t ON t.device = d.id LEFT JOIN steps s ON s.device = t.device AND s.rev = t.rev
WHERE d.owner <> '' AND d.deleted = 0;
INSERT INTO fleet_arrivals (owner, day, n)
SELECT owner, created / 86400000000, count(*) FROM devices WHERE owner <> '' AND deleted = 0 GROUP BY 1, 2;

-- +goose Down
DROP TRIGGER account_ends_counts;
DROP TRIGGER step_changes;
DROP TRIGGER step_begins;
DROP TRIGGER boot_state_ends;
DROP TRIGGER boot_state_changes;
DROP TRIGGER boot_state_begins;
DROP TRIGGER device_changes_token_or_clone;
DROP TRIGGER device_changes_quiet;
DROP TRIGGER device_changes_enrolment;
DROP TRIGGER device_is_removed;
DROP TRIGGER device_leaves_fleet;
DROP TRIGGER device_changes_nick;
DROP TRIGGER device_changes_owner;
DROP TRIGGER device_joins_fleet;
DROP INDEX waiting_undecided;
DROP INDEX join_tokens_nick;
DROP TABLE fleet_arrivals;
DROP TABLE fleet_counts;
DROP TABLE device_meta_terms;
DROP TABLE device_words;
DROP TABLE device_search;
DELETE FROM settings WHERE name = 'search-index';
ALTER TABLE devices DROP COLUMN quiet;
