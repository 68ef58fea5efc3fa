package sqlitetest

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"

	"gangway/hub/store/sqlite"

	_ "modernc.org/sqlite" // the driver
)

// FillFleet adds n devices of an owner to the database at `path`. No other process may have the
// database open. FillFleet writes the rows with SQL and makes no enrolment requests, so a million
// devices take only some minutes. The schema's triggers run as usual. Open the store after
// FillFleet, because Open indexes the devices' words and metadata.
//
// The nick of a device is "forklift-" and a number from 0 to n-1, in mixed order. The devices have
// these properties:
//
//   - one of 20 models (the first models are much more frequent), one of 5 makers, one of 30
//     firmwares and one of 40 join tokens;
//   - the members site (one of 200) and rack (one of 20,000) in the user-meta;
//   - a measured firmware: each model has three; on 1 device in 3, the firmware counts as changed;
//     the device with the number 7 has a firmware that no other device has;
//   - an event, an EK and an AIK in the registries, and a mark of its TPM;
//   - states: 1 in 10 is quiet, 1 in 1000 has a changed boot, 1 in 100 installs a revision, and 1 in
//     500 has a failed revision.
func FillFleet(ctx context.Context, path, owner string, n int) error {
	u := url.URL{Scheme: "file", Path: path, RawQuery: "_pragma=synchronous(off)&_pragma=cache_size(-1048576)&_pragma=temp_store(memory)"}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	const chunk = 50_000
	for from := 0; from < n; from += chunk {
		if err := fill(ctx, db, owner, n, from, min(from+chunk, n)); err != nil {
			return fmt.Errorf("add the devices with the numbers from %d to %d: %w", from, min(from+chunk, n)-1, err)
		}
	}
	for _, line := range []string{fillCohorts, fillModels, fillVersions, `DELETE FROM settings WHERE name = 'search-index'`} {
		if _, err := db.ExecContext(ctx, line); err != nil {
			return err
		}
	}
	return nil
}

// Statements of the function `fill`. ?1 is the owner and ?2 is n; the statements make the devices
// with the numbers from ?3 up to, but not including, ?4. A device's number determines its id and
// the row id of its enrolment.
const (
	numbers = `WITH RECURSIVE i (i) AS (SELECT ?3 UNION ALL SELECT i + 1 FROM i WHERE i + 1 < ?4) `
	model   = `'NUC ' || CASE WHEN i.i % 3 > 0 THEN i.i % 2 ELSE i.i % 20 END`
	id      = `printf('%08x%016x', (i.i * 2654435761) % 4294967296, i.i)`
	name    = `CAST(x'000b' || randomblob(32) AS BLOB)` // of a TPM key: TPM_ALG_SHA256, and a digest

	fillEnrolments = numbers + `INSERT INTO enrolments (id, request_hash, state, device, owner, token, generation, ek, iak_name, idevid_name,
			iak_hash, idevid_hash, created, expires, manufacturer, model, firmware, prod_model, prod_serial, key_algorithm,
			iak_public, ek_certificate, iak_cert, idevid_cert, verdict, request)
		SELECT 1000000000 + i.i, randomblob(32), 'a', ` + id + `, ?1, 't', 0, randomblob(32), ` + name + `, ` + name + `, randomblob(32), randomblob(32), 0, 0,
			CASE i.i % 5 WHEN 0 THEN 'IFX' WHEN 1 THEN 'IFX' WHEN 2 THEN 'STM' WHEN 3 THEN 'NTC' ELSE 'INTC' END, 'SLB9670', (i.i % 30) || '.85',
			` + model + `, printf('SN-%08d', (i.i * 48271) % ?2), 'ECDSA P-256',
			zeroblob(90), zeroblob(700), zeroblob(500), zeroblob(500), x'7b7d', zeroblob(200)
		FROM i WHERE ?2 > 0`
	fillDevices = numbers + `INSERT INTO devices (id, nick, owner, token, enrolment, deleted, created, activated, last_seen, last_seen_addr, user_meta, device_meta, quiet)
		SELECT ` + id + `, printf('forklift-%07d', (i.i * 7919) % ?2), ?1, printf('%024x', i.i % 40), 1000000000 + i.i, 0,
			1700000000000000 + i.i * 50000000, 1700000000000000 + i.i * 50000000, 1800000000000000 - (i.i % 1000000) * 1000000, '192.0.2.1',
			'{"rack":"r' || (i.i % 20000) || '","site":"site ' || (i.i % 200) || '"}', '{"kernel":"6.12"}', i.i % 10 = 3
		FROM i`
	// fillTPMs and fillAIKs register the keys of the enrolments.
	fillTPMs = numbers + `INSERT INTO tpms (ek, owner, device, generation, enrolment, first_seen) SELECT e.ek, ?1, e.device, 0, e.id, 0 FROM i JOIN enrolments e ON e.id = 1000000000 + i.i WHERE ?2 > 0`
	fillAIKs = numbers + `INSERT INTO aiks (name, ek, device, enrolment, registered) SELECT e.iak_name, e.ek, e.device, e.id, 0 FROM i JOIN enrolments e ON e.id = 1000000000 + i.i WHERE ?1 <> '' AND ?2 > 0`
	// fillMarks does what an activation does with a known EK certificate.
	fillMarks  = numbers + `INSERT INTO chip_marks (mark, device) SELECT randomblob(32), ` + id + ` FROM i WHERE ?1 <> '' AND ?2 > 0`
	fillEvents = numbers + `INSERT INTO events (time, kind, code, owner, device, token, addr, message)
		SELECT 1700000000000000 + i.i * 50000000, 'device.activated', '', ?1, ` + id + `, printf('%024x', i.i % 40), '192.0.2.1', 'The device is active.' FROM i WHERE ?2 > 0`
	fillBoots  = numbers + `INSERT INTO boot_devices (device, state, requested) SELECT ` + id + `, CASE WHEN i.i % 1000 = 7 THEN 'changed' ELSE 'matches' END, 0 FROM i WHERE ?1 <> '' AND ?2 > 0`
	fillJudged = numbers + `INSERT INTO boot_judged (device, owner, version, model, token, firmware, ran) SELECT ` + id + `, ?1, 0, ` + model + `, printf('%024x', i.i % 40), '1.' || i.i % 3, x'' FROM i WHERE ?2 > 0`
	fillParts  = numbers + `INSERT INTO boot_parts (device, part, owner, value, model, token, firmware, bad)
		SELECT ` + id + `, 'firmware-code', ?1, printf('%064x', CASE WHEN i.i = 7 THEN 99 ELSE i.i / 7 % 3 END), ` + model + `, printf('%024x', i.i % 40), '1.' || i.i % 3, i.i / 7 % 3 = 2 OR i.i = 7 FROM i WHERE ?2 > 0`
	// fillCohorts, fillModels and fillVersions count the rows of boot_parts in the same way as the
	// store.
	fillCohorts = `INSERT INTO boot_cohorts (owner, part, model, value, n, n_bad, first, words, cause, firmware)
		SELECT owner, part, model, value, count(*), sum(bad), 0, 'The firmware changed.', 'firmware-update', '1.2' FROM boot_parts GROUP BY owner, part, model, value`
	fillModels = `INSERT INTO boot_cohorts (owner, part, model, value, n, n_bad, first, words, cause, firmware)
		SELECT owner, part, model, '', sum(n), 0, 0, '', '', '' FROM boot_cohorts GROUP BY owner, part, model`
	fillVersions = `INSERT INTO boot_versions (owner, part, value, model, firmware, n, n_bad)
		SELECT owner, part, value, model, firmware, count(*), sum(bad) FROM boot_parts GROUP BY owner, part, value, model, firmware`
	fillTrails = numbers + `INSERT INTO trails (device, owner, rev, reported, created, touched) SELECT ` + id + `, ?1, 0, 0, 0, 0 FROM i WHERE ?2 > 0`
	fillSteps  = numbers + `INSERT INTO steps (device, owner, rev, status, step_time, progress_time, modified, state_sum, committer, commit_msg, progress, meta, state)
		SELECT ` + id + `, ?1, 0, CASE WHEN i.i % 100 = 5 THEN 'DOWNLOADING' WHEN i.i % 500 = 9 THEN 'ERROR' ELSE 'DONE' END, 0, 0, 0, x'', '', '', CAST('{"progress":50}' AS BLOB), x'7b7d', x'7b7d' FROM i WHERE ?2 > 0`
)

func fill(ctx context.Context, db *sql.DB, owner string, n, from, to int) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for _, line := range []string{fillEnrolments, fillDevices, fillTPMs, fillAIKs, fillMarks, fillEvents, fillBoots, fillJudged, fillParts, fillTrails, fillSteps} {
		if _, err := tx.ExecContext(ctx, line, owner, n, from, to); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// OpenFleet makes a database at `path` with n devices of an owner, and opens it.
func OpenFleet(ctx context.Context, path, owner string, n int) (*sqlite.Store, error) {
	if err := CopyEmpty(path); err != nil {
		return nil, err
	}
	if err := FillFleet(ctx, path, owner, n); err != nil {
		return nil, err
	}
	return sqlite.Open(ctx, path)
}
