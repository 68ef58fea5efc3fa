-- usable from 7
-- The conditions that last now and need the operator. One row for each name, and the program has few names.
CREATE TABLE alarms (
    name  text COLLATE "C" NOT NULL PRIMARY KEY,
    since bigint NOT NULL,
    fact  text COLLATE "C" NOT NULL
);

-- hub_counts also has the quiet devices of all owners. No device may change its state between the first
-- count and the new function.
LOCK TABLE fleet_counts IN EXCLUSIVE MODE;
INSERT INTO hub_counts (field, value, n)
    SELECT 'quiet', '', coalesce(sum(n), 0) FROM fleet_counts WHERE field = 'state' AND value = 'quiet';
CREATE OR REPLACE FUNCTION count_fleet(count_owner text, count_field text, count_value text, by bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    now bigint;
BEGIN
    -- by is 1 or -1.
    INSERT INTO fleet_counts AS c (owner, field, value, n, size) VALUES (count_owner, count_field, count_value, by, 0)
    ON CONFLICT (owner, field, lower(value)) DO UPDATE SET n = c.n + excluded.n,
        size = CASE WHEN c.n + excluded.n >= 2::bigint << c.size::int THEN c.size + 1
            WHEN c.n + excluded.n > 0 AND c.n + excluded.n < 1::bigint << c.size::int THEN c.size - 1
            ELSE c.size END
    RETURNING c.n INTO now;
    IF now = 0 THEN
        DELETE FROM fleet_counts c WHERE c.owner = count_owner AND c.field = count_field AND lower(c.value) = lower(count_value COLLATE "C");
    END IF;
    IF count_field = 'total' THEN
        PERFORM count_hub('devices', '', by);
    ELSIF count_field = 'maker' THEN
        PERFORM count_hub('maker', count_value, by);
    ELSIF count_field = 'state' AND count_value = 'quiet' THEN
        PERFORM count_hub('quiet', '', by);
    END IF;
END $$;
