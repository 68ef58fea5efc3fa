-- +goose Up
-- From this version on, an EK certificate stays in the enrolment that has it: ek_certificates gets a row only
-- if that enrolment expires, or if the EK's next enrolment has no certificate (package sqlstore). The tables
-- do not change. A hub of an earlier version would not find these certificates, so it must not start on this
-- database any more.
SELECT 1;

-- +goose Down
-- Earlier versions do not find the certificates of the enrolments that this version has written.
SELECT 1;
