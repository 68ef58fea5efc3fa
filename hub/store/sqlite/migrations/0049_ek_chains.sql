-- +goose Up
-- CA certificates above EK certificates, once for all enrolments: sum is the first half of the SHA-256 of
-- links. The column request of enrolments names the sum (package sqlstore). Rows never
-- change, and are never removed. A row of ek_certificates that is proven may be without
-- the certificate: then the enrolment of the TPM has it.
CREATE TABLE ek_chains (
    sum   BLOB NOT NULL PRIMARY KEY,
    links BLOB NOT NULL
) STRICT;

-- +goose Down
-- Earlier versions cannot read the enrolments that this version has written.
DROP TABLE ek_chains;
