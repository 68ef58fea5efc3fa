-- +goose Up
-- What the owner of a device was told once and is not told again.
CREATE TABLE told (
    device TEXT NOT NULL,
    mark   BLOB NOT NULL,
    PRIMARY KEY (device, mark)
) STRICT, WITHOUT ROWID;

-- What the EK certificate of a device says of its chip, hashed: two devices
-- with an equal mark may be one chip.
CREATE TABLE chip_marks (
    mark   BLOB NOT NULL,
    device TEXT NOT NULL,
    PRIMARY KEY (mark, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX chip_marks_device ON chip_marks (device);

-- +goose Down
DROP TABLE chip_marks;
DROP TABLE told;
