-- From this version on, an EK certificate stays in the enrolment that has it: ek_certificates gets a row only
-- if that enrolment expires, or if the EK's next enrolment has no certificate (package sqlstore). A hub
-- without this migration does not find these certificates. Until it is updated, it asks the owner about a
-- request without an EK certificate, even if this version has one of the EK.
COMMENT ON TABLE ek_certificates IS 'EK certificates that no enrolment has any more, or that await the proof of the EK';
