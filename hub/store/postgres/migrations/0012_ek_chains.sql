-- CA certificates above EK certificates, once for all enrolments: sum is the first half of the SHA-256 of
-- links. The column request of enrolments names the sum (package sqlstore). Rows never change, and are
-- never removed. A row of ek_certificates that is proven may be without the certificate: then the
-- enrolment of the TPM has it. A hub without this migration cannot read the enrolments that this version
-- writes, so it must not use the database any more.
CREATE TABLE ek_chains (
    sum   bytea NOT NULL PRIMARY KEY,
    links bytea NOT NULL
);
