-- +goose Up
-- One row, whose number grows with every change of settings: policies, lists,
-- trusted certificates.
CREATE TABLE config_version (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    version INTEGER NOT NULL
) STRICT;
INSERT INTO config_version (id, version) VALUES (1, 1);

-- The operator's word on TPM makers' CA certificates. kind is root, link or
-- distrusted.
CREATE TABLE trusted_certificates (
    id          INTEGER PRIMARY KEY,
    fingerprint BLOB    NOT NULL,
    kind        TEXT    NOT NULL CHECK (kind IN ('root', 'link', 'distrusted')),
    source      TEXT    NOT NULL,
    added       INTEGER NOT NULL,
    der         BLOB    NOT NULL
) STRICT;
CREATE UNIQUE INDEX trusted_certificates_fingerprint ON trusted_certificates (fingerprint);

-- +goose Down
DROP TABLE trusted_certificates;
DROP TABLE config_version;
