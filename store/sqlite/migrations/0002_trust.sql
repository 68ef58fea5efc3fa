-- +goose Up
-- One row, whose number grows with every change of settings: policies, lists,
-- trusted certificates.
CREATE TABLE config_version (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    version INTEGER NOT NULL
) STRICT;
INSERT INTO config_version (id, version) VALUES (1, 1);

-- +goose Down
DROP TABLE config_version;
