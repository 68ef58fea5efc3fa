-- +goose Up
-- An object that is announced and not uploaded no longer counts its size, and
-- sizes that once overflowed the sum are gone: usage is counted again.
DELETE FROM objects WHERE size < 0 OR size > 1125899906842624;
DELETE FROM usage;
INSERT INTO usage (owner, bytes)
SELECT owner, sum(cost) FROM (
    SELECT owner, 512 + iif(stored, size, 0) AS cost FROM objects
    UNION ALL
    SELECT owner, 131072 + length(state) FROM steps
) GROUP BY owner;

-- +goose Down
SELECT 1;
