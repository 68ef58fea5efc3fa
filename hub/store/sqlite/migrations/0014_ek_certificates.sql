-- +goose Up
-- The EK certificate that was shown of an EK, and the CA certificates between
-- it and its root. expires is 0 where the EK is proven.
CREATE TABLE ek_certificates (
    ek          BLOB    NOT NULL PRIMARY KEY,
    proven      INTEGER NOT NULL,
    expires     INTEGER NOT NULL,
    certificate BLOB    NOT NULL,
    links       BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX ek_certificates_expires ON ek_certificates (expires) WHERE proven = 0;

-- ek_known: the EK certificate's chain leads to a root that the hub knows.
ALTER TABLE enrolments ADD COLUMN ek_known INTEGER NOT NULL DEFAULT 0;
ALTER TABLE enrolments ADD COLUMN ek_links BLOB NOT NULL DEFAULT x'';

-- Whether a TPM without a trusted EK certificate is refused.
ALTER TABLE ek_lists ADD COLUMN certificate_required INTEGER NOT NULL DEFAULT 0;

-- TPMs that are bound have proven themselves. The hub judges the certificate
-- at each use, so one whose chain it did not know does no harm.
INSERT INTO ek_certificates (ek, proven, expires, certificate, links)
    SELECT t.ek, 1, 0, e.ek_certificate, x'' FROM tpms t JOIN enrolments e ON e.id = t.enrolment
    WHERE length(e.ek_certificate) > 0;

-- +goose Down
ALTER TABLE ek_lists DROP COLUMN certificate_required;
ALTER TABLE enrolments DROP COLUMN ek_links;
ALTER TABLE enrolments DROP COLUMN ek_known;
DROP TABLE ek_certificates;
