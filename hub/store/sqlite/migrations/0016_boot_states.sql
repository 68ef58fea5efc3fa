-- +goose Up
-- A measurement that was refused after the latest that holds; refused is NULL
-- where there is none.
ALTER TABLE boot_devices ADD COLUMN refused INTEGER;
ALTER TABLE boot_devices ADD COLUMN refusal_code TEXT NOT NULL DEFAULT '';
ALTER TABLE boot_devices ADD COLUMN refusal_reason TEXT NOT NULL DEFAULT '';
ALTER TABLE boot_devices ADD COLUMN refusal_hint TEXT NOT NULL DEFAULT '';

-- Boots in which the firmware measured nothing were said to match.
UPDATE boots SET state = 'nothing-measured'
WHERE json_array_length(CAST(measurement AS TEXT), '$.pcrs') >= 8
  AND NOT EXISTS (SELECT 1 FROM json_each(CAST(measurement AS TEXT), '$.pcrs') WHERE key < 8 AND trim(value, '0') <> '');
UPDATE boot_devices SET state = 'nothing-measured'
WHERE (SELECT b.state FROM boots b WHERE b.device = boot_devices.device ORDER BY b.id DESC LIMIT 1) = 'nothing-measured';

-- +goose Down
ALTER TABLE boot_devices DROP COLUMN refusal_hint;
ALTER TABLE boot_devices DROP COLUMN refusal_reason;
ALTER TABLE boot_devices DROP COLUMN refusal_code;
ALTER TABLE boot_devices DROP COLUMN refused;
UPDATE boot_devices SET state = '' WHERE state = 'refused';
