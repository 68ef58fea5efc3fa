package pgtest

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"gangway/hub/store/postgres"

	"github.com/jackc/pgx/v5/pgconn"
)

// FillFleet adds n devices of an owner to a database without devices: the same devices as
// sqlitetest.FillFleet. It writes the rows without triggers, then the counters, and makes the
// indexes last. For a million devices, this takes some minutes, which is less than moving the
// devices from SQLite would take. As after a restore, the server has no statistics about the new
// rows. The user of the database must be a superuser.
func FillFleet(ctx context.Context, url, owner string, n int) (err error) {
	s, err := postgres.Open(ctx, postgres.Config{URL: url}) // makes the schema
	if err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	pg, err := pgconn.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pg.Close(context.WithoutCancel(ctx))) }()
	run := func(sql string) error {
		_, err := pg.Exec(ctx, sql).ReadAll()
		if err != nil {
			return fmt.Errorf("fleet of %d devices: %w: %s", n, err, sql)
		}
		return nil
	}
	if err := run(`SET session_replication_role = replica; SET synchronous_commit = off; SET maintenance_work_mem = '512MB'; SET work_mem = '128MB'; SET jit = off`); err != nil {
		return err
	}
	results, err := pg.Exec(ctx, `SELECT indexdef, format('DROP INDEX %I', indexname) FROM pg_indexes
		WHERE schemaname = 'public' AND tablename = ANY('{`+strings.Join(filled, ",")+`}')
			AND indexname NOT IN (SELECT conname FROM pg_constraint)`).ReadAll()
	if err != nil {
		return err
	}
	var indexes []string
	for _, row := range results[0].Rows {
		indexes = append(indexes, string(row[0]))
		if err := run(string(row[1])); err != nil {
			return err
		}
	}
	values := strings.NewReplacer(":owner", "'"+strings.ReplaceAll(owner, "'", "''")+"'", ":n", fmt.Sprint(n), ":id", fleetID, ":model", fleetModel)
	for _, line := range append(fleetRows, indexes...) {
		if err := run(values.Replace(line)); err != nil {
			return err
		}
	}
	return nil
}

// filled has the tables whose indexes FillFleet makes last.
var filled = []string{"enrolments", "devices", "tpms", "aiks", "chip_marks", "boot_judged", "boot_parts", "trails", "steps", "events", "device_search"}

// SQL expressions for the id and the model of device number i.
const (
	fleetID    = `(lpad(to_hex((i * 2654435761) % 4294967296), 8, '0') || lpad(to_hex(i), 16, '0'))`
	fleetModel = `('NUC ' || CASE WHEN i % 3 > 0 THEN i % 2 ELSE i % 20 END)`
)

// fleetRows are the SQL statements of FillFleet. The two before the last one fill device_words and
// device_meta_terms in the same way as package sqlstore.
var fleetRows = []string{
	`CREATE TEMPORARY TABLE fleet AS SELECT i, :id AS id, :model AS model, lpad(to_hex(i % 40), 24, '0') AS token, 1000000000 + i AS enrolment,
		'forklift-' || lpad((i * 7919 % :n)::text, 7, '0') AS nick, 'SN-' || lpad((i * 48271 % :n)::text, 8, '0') AS serial,
		sha256(('ek' || i)::bytea) AS ek FROM generate_series(0::bigint, :n - 1) AS n (i)`,
	`INSERT INTO enrolments (id, request_hash, state, device, owner, token, generation, ek, iak_name, idevid_name,
			iak_hash, idevid_hash, created, expires, manufacturer, model, firmware, prod_model, prod_serial, key_algorithm,
			iak_public, ek_certificate, iak_cert, idevid_cert, verdict, request)
		SELECT enrolment, sha256(('request' || i)::bytea), 'a', id, :owner, 't', 0, ek, '\x000b'::bytea || sha256(('name' || i)::bytea), ek, ek, sha256(('idevid' || i)::bytea), 0, 0,
			CASE i % 5 WHEN 0 THEN 'IFX' WHEN 1 THEN 'IFX' WHEN 2 THEN 'STM' WHEN 3 THEN 'NTC' ELSE 'INTC' END, 'SLB9670', (i % 30) || '.85',
			model, serial, 'ECDSA P-256',
			decode(repeat('00', 90), 'hex'), decode(repeat('00', 700), 'hex'), decode(repeat('00', 500), 'hex'), decode(repeat('00', 500), 'hex'), '{}', decode(repeat('00', 200), 'hex')
		FROM fleet`,
	`SELECT setval('enrolments_id_seq', 1000000000 + :n)`,
	`INSERT INTO devices (id, nick, owner, token, enrolment, deleted, created, activated, last_seen, last_seen_addr, user_meta, device_meta, quiet)
		SELECT id, nick, :owner, token, enrolment, 0,
			1700000000000000 + i * 50000000, 1700000000000000 + i * 50000000, 1800000000000000 - (i % 1000000) * 1000000, '192.0.2.1',
			'{"rack":"r' || i % 20000 || '","site":"site ' || i % 200 || '"}', '{"kernel":"6.12"}', CASE WHEN i % 10 = 3 THEN 1 ELSE 0 END
		FROM fleet`,
	`INSERT INTO tpms (ek, owner, device, generation, enrolment, first_seen) SELECT ek, :owner, id, 0, enrolment, 0 FROM fleet`,
	`INSERT INTO aiks (name, ek, device, enrolment, registered) SELECT '\x000b'::bytea || sha256(('name' || i)::bytea), ek, id, enrolment, 0 FROM fleet`,
	`INSERT INTO chip_marks (mark, device) SELECT sha256(('mark' || i)::bytea), id FROM fleet`,
	`INSERT INTO boot_devices (device, state, requested) SELECT id, CASE WHEN i % 1000 = 7 THEN 'changed' ELSE 'matches' END, 0 FROM fleet`,
	`INSERT INTO boot_judged (device, owner, version, model, token, firmware, ran) SELECT id, :owner, 0, model, token, '1.' || i % 3, '' FROM fleet`,
	`INSERT INTO boot_parts (device, part, owner, value, model, token, firmware, bad)
		SELECT id, 'firmware-code', :owner, lpad(CASE WHEN i = 7 THEN '99' ELSE to_hex(i / 7 % 3) END, 64, '0'), model, token, '1.' || i % 3,
			CASE WHEN i / 7 % 3 = 2 OR i = 7 THEN 1 ELSE 0 END FROM fleet`,
	`INSERT INTO boot_cohorts (owner, part, model, value, n, n_bad, first, words, cause, firmware)
		SELECT owner, part, model, value, count(*), sum(bad), 0, 'The firmware changed.', 'firmware-update', '1.2' FROM boot_parts GROUP BY owner, part, model, value`,
	`INSERT INTO boot_cohorts (owner, part, model, value, n, n_bad, first, words, cause, firmware)
		SELECT owner, part, model, '', sum(n), 0, 0, '', '', '' FROM boot_cohorts GROUP BY owner, part, model`,
	`INSERT INTO boot_versions (owner, part, value, model, firmware, n, n_bad)
		SELECT owner, part, value, model, firmware, count(*), sum(bad) FROM boot_parts GROUP BY owner, part, value, model, firmware`,
	`INSERT INTO trails (device, owner, rev, reported, created, touched) SELECT id, :owner, 0, 0, 0, 0 FROM fleet`,
	`INSERT INTO steps (device, owner, rev, status, step_time, progress_time, modified, state_sum, committer, commit_msg, progress, meta, state)
		SELECT id, :owner, 0, CASE WHEN i % 100 = 5 THEN 'DOWNLOADING' WHEN i % 500 = 9 THEN 'ERROR' ELSE 'DONE' END, 0, 0, 0, '', '', '', '{"progress":50}', '{}', '{}' FROM fleet`,
	`INSERT INTO events (time, kind, code, owner, device, token, addr, message)
		SELECT 1700000000000000 + i * 50000000, 'device.activated', '', :owner, id, token, '192.0.2.1', 'The device is active.' FROM fleet ORDER BY i`,
	`INSERT INTO device_search (owner, nick, device, created, seen, quiet, due, model, maker, firmware, serial, token, boot, rev, status, progress, clone)
		SELECT d.owner, d.nick, d.id, d.created, CASE WHEN d.quiet = 1 THEN d.last_seen ELSE 9223372036854775807 END, d.quiet, d.last_seen,
			e.prod_model, e.manufacturer, e.firmware, e.prod_serial, d.token, b.state, s.rev, s.status, 0, ''
		FROM devices d JOIN enrolments e ON e.id = d.enrolment JOIN boot_devices b ON b.device = d.id JOIN steps s ON s.device = d.id`,
	`INSERT INTO fleet_counts (owner, field, value, n, size)
		SELECT owner, field, value, n, length(trim(leading '0' from n::bit(63)::text)) - 1 FROM (
			SELECT owner, field, value, count(*) AS n FROM device_search s, LATERAL (VALUES ('total', ''), ('model', s.model), ('maker', s.maker),
				('firmware', s.firmware), ('token', s.token), ('state', CASE WHEN s.quiet = 1 THEN 'quiet' END),
				('state', CASE WHEN is_changed(s.boot) THEN 'boot-changed' END), ('state', CASE WHEN is_updating(s.status) THEN 'updating' END),
				('state', CASE WHEN is_failed(s.status) THEN 'failed' END)) AS v (field, value)
			WHERE value IS NOT NULL GROUP BY owner, field, value) AS c`,
	`INSERT INTO fleet_arrivals (owner, day, n) SELECT owner, activated / 86400000000, count(*) FROM devices GROUP BY 1, 2`,
	`UPDATE hub_counts SET n = n + :n WHERE field = 'devices'`,
	`UPDATE hub_counts SET n = hub_counts.n + c.n FROM fleet_counts c WHERE hub_counts.field = 'quiet' AND c.field = 'state' AND c.value = 'quiet'`,
	`INSERT INTO hub_counts (field, value, n) SELECT 'maker', value, n FROM fleet_counts WHERE field = 'maker'`,
	`INSERT INTO device_words (owner, word, nick)
		SELECT :owner, word, nick FROM fleet, LATERAL (VALUES (nick), (substr(nick, 10)), (lower(serial)), (substr(serial, 4))) AS w (word) ORDER BY word, nick`,
	`INSERT INTO device_meta_terms (term, nick)
		SELECT ('x' || encode(substr(sha256(:owner::bytea || '\x00' || m.key::bytea || '\x00' || m.value::bytea), 1, 8), 'hex'))::bit(64)::bigint, nick
		FROM fleet, LATERAL (VALUES ('rack', 'r' || i % 20000), ('site', 'site ' || i % 200), ('kernel', '6.12')) AS m (key, value) ORDER BY 1, 2`,
	`DROP TABLE fleet`,
}
