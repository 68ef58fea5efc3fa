-- Fewer changes for each onboarding. The pending enrolments of a device are found by its EK. Until it is
-- updated, a running hub without this migration finds them among the pending enrolments of the device's
-- owner. Such a hub must not start any more, because it cannot read the evidence of a database that this
-- version has moved from SQLite (package sqlstore).
DROP INDEX enrolments_pending_device;

-- Counts a row of device_search (by is 1), or discounts it (by is -1). A new device changes five rows of
-- fleet_counts and two of hub_counts, with one statement for each table.
CREATE OR REPLACE FUNCTION count_search(s device_search, by bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF by = 1 THEN
        INSERT INTO fleet_counts AS c (owner, field, value, n, size) VALUES (s.owner, 'total', '', 1, 0),
            (s.owner, 'model', s.model, 1, 0), (s.owner, 'maker', s.maker, 1, 0), (s.owner, 'firmware', s.firmware, 1, 0),
            (s.owner, 'token', s.token, 1, 0)
        ON CONFLICT (owner, field, lower(value)) DO UPDATE SET n = c.n + 1,
            size = CASE WHEN c.n + 1 >= 2::bigint << c.size::int THEN c.size + 1 ELSE c.size END;
        INSERT INTO hub_counts AS c (field, value, n) VALUES ('devices', '', 1), ('maker', s.maker, 1)
        ON CONFLICT (field, lower(value)) DO UPDATE SET n = c.n + 1;
    ELSE
        PERFORM count_fleet(s.owner, 'total', '', by);
        PERFORM count_fleet(s.owner, 'model', s.model, by);
        PERFORM count_fleet(s.owner, 'maker', s.maker, by);
        PERFORM count_fleet(s.owner, 'firmware', s.firmware, by);
        PERFORM count_fleet(s.owner, 'token', s.token, by);
    END IF;
    IF s.quiet = 1 THEN PERFORM count_fleet(s.owner, 'state', 'quiet', by); END IF;
    IF is_changed(s.boot) THEN PERFORM count_fleet(s.owner, 'state', 'boot-changed', by); END IF;
    IF is_updating(s.status) THEN PERFORM count_fleet(s.owner, 'state', 'updating', by); END IF;
    IF is_failed(s.status) THEN PERFORM count_fleet(s.owner, 'state', 'failed', by); END IF;
    IF s.clone <> '' THEN PERFORM count_fleet(s.owner, 'state', 'cloned', by); END IF;
END $$;
