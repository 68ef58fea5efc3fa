-- +goose Up
-- 1 for what a peer caused that had proven nothing. Such rows are kept for a
-- shorter time.
ALTER TABLE events ADD COLUMN unproven INTEGER NOT NULL DEFAULT 0;
UPDATE events SET unproven = 1
    WHERE kind IN ('enrolment.refused', 'activation.refused', 'aik.issued', 'account.sign-in-refused', 'device.sign-in-refused');
CREATE INDEX events_age ON events (max(time, last));
CREATE INDEX events_unproven ON events (max(time, last)) WHERE unproven = 1;

-- What rows refer to is looked up when an enrolment is removed, or gets another
-- id: without these, each time in the whole fleet.
CREATE INDEX tpms_enrolment ON tpms (enrolment);
CREATE INDEX aiks_enrolment ON aiks (enrolment);
CREATE INDEX devices_enrolment ON devices (enrolment) WHERE enrolment IS NOT NULL;
CREATE INDEX enrolments_previous ON enrolments (previous) WHERE previous IS NOT NULL;

CREATE INDEX enrolments_expired ON enrolments (expires) WHERE state = 'x';
CREATE INDEX enrolments_pending_owner ON enrolments (owner) WHERE state = 'p';

-- The bytes of an owner's pending enrolments, kept up by the triggers below.
CREATE TABLE pending_usage (
    owner TEXT    NOT NULL PRIMARY KEY,
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO pending_usage (owner, bytes)
    SELECT owner, sum(1024 + length(request) + length(verdict) + length(ek_certificate) + length(ek_links) + length(iak_cert) + length(idevid_cert))
    FROM enrolments WHERE state = 'p' GROUP BY owner;

-- +goose StatementBegin
CREATE TRIGGER enrolment_begins AFTER INSERT ON enrolments WHEN NEW.state = 'p'
BEGIN
    INSERT INTO pending_usage (owner, bytes) VALUES (NEW.owner, 1024 + length(NEW.request) + length(NEW.verdict)
        + length(NEW.ek_certificate) + length(NEW.ek_links) + length(NEW.iak_cert) + length(NEW.idevid_cert))
    ON CONFLICT (owner) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER enrolment_pends_no_more AFTER UPDATE OF state ON enrolments WHEN OLD.state = 'p'
BEGIN
    UPDATE pending_usage SET bytes = bytes - (1024 + length(OLD.request) + length(OLD.verdict)
        + length(OLD.ek_certificate) + length(OLD.ek_links) + length(OLD.iak_cert) + length(OLD.idevid_cert))
    WHERE owner = OLD.owner;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER enrolment_begins_again AFTER UPDATE OF state ON enrolments WHEN NEW.state = 'p'
BEGIN
    INSERT INTO pending_usage (owner, bytes) VALUES (NEW.owner, 1024 + length(NEW.request) + length(NEW.verdict)
        + length(NEW.ek_certificate) + length(NEW.ek_links) + length(NEW.iak_cert) + length(NEW.idevid_cert))
    ON CONFLICT (owner) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
-- +goose StatementEnd

-- +goose Down
DROP TRIGGER enrolment_begins_again;
DROP TRIGGER enrolment_pends_no_more;
DROP TRIGGER enrolment_begins;
DROP TABLE pending_usage;
DROP INDEX enrolments_pending_owner;
DROP INDEX enrolments_expired;
DROP INDEX enrolments_previous;
DROP INDEX devices_enrolment;
DROP INDEX aiks_enrolment;
DROP INDEX tpms_enrolment;
DROP INDEX events_unproven;
DROP INDEX events_age;
ALTER TABLE events DROP COLUMN unproven;
