-- +goose Up
-- In a table without rowids, a row over a quarter of a page needs a page of its own for
-- its end. With rowids, two rows with an EK certificate and a CA certificate share a page.
CREATE TABLE ek_certificates_new (
    ek          BLOB    NOT NULL PRIMARY KEY,
    proven      INTEGER NOT NULL,
    expires     INTEGER NOT NULL,
    certificate BLOB    NOT NULL,
    links       BLOB    NOT NULL
) STRICT;
INSERT INTO ek_certificates_new (ek, proven, expires, certificate, links)
    SELECT ek, proven, expires, certificate, links FROM ek_certificates;
DROP TABLE ek_certificates;
ALTER TABLE ek_certificates_new RENAME TO ek_certificates;
CREATE INDEX ek_certificates_expires ON ek_certificates (expires) WHERE proven = 0;

-- +goose Down
CREATE TABLE ek_certificates_old (
    ek          BLOB    NOT NULL PRIMARY KEY,
    proven      INTEGER NOT NULL,
    expires     INTEGER NOT NULL,
    certificate BLOB    NOT NULL,
    links       BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO ek_certificates_old (ek, proven, expires, certificate, links)
    SELECT ek, proven, expires, certificate, links FROM ek_certificates;
DROP TABLE ek_certificates;
ALTER TABLE ek_certificates_old RENAME TO ek_certificates;
CREATE INDEX ek_certificates_expires ON ek_certificates (expires) WHERE proven = 0;
