package postgres_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"gangway/hub/store/sqlstore"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// mayorder lists the statements whose plans may sort, because they sort only a few rows, which an
// index has found. The schema for SQLite has indexes in the order of these results. The schema for
// PostgreSQL does not, because each contact of a device with the hub would have to change such an
// index.
var mayorder = map[string]bool{
	"unclaimed":  true, // at most store.MaxUnclaimed devices
	"superseded": true, // at most some dozens of enrolments of a device
	// Only few tokens have the same nick, because an owner has at most store.MaxJoinTokens tokens.
	"tokens by nick": true,
	"hub's makers":   true, // a row for each maker of TPMs
	// These sort the steps of one page, which an index has found in their order.
	"steps": true, "open steps": true,
}

// Every statement finds its rows by an index, and reads them in the order of the result, so that
// its cost does not grow with the number of devices. For a few rows, PostgreSQL rightly prefers
// scans and sorts, so the test switches these off: a plan then has them only if no index can
// replace them.
func TestStatementsUseTheirIndexes(t *testing.T) {
	t.Parallel()
	pg, err := pgconn.Connect(t.Context(), database(t))
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close(t.Context())
	if _, err := pg.Exec(t.Context(), fillForPlans+`; SET plan_cache_mode = force_custom_plan;
		SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; SET enable_hashjoin = off; SET enable_mergejoin = off`).ReadAll(); err != nil {
		t.Fatal(err)
	}
	all := sqlstore.FleetStatements()
	maps.Copy(all, sqlstore.RemovalStatements())
	maps.Copy(all, sqlstore.RequestStatements())
	for name, s := range all {
		plan := explain(t, pg, s)
		for _, fault := range faults(plan, mayorder[name]) {
			t.Errorf("%s: %s\n%s\n%s", name, fault, s.Postgres(), strings.Join(plan, "\n"))
		}
	}
}

// arguments returns arguments of the given types that select only a few rows.
func arguments(oids []uint32) string {
	list := make([]string, len(oids))
	for i, oid := range oids {
		switch oid {
		case pgtype.Int8OID, pgtype.Int4OID:
			list[i] = "100"
		case pgtype.TextArrayOID:
			list[i] = "'{owner1,owner2}'"
		case pgtype.ByteaOID:
			list[i] = `'\x00'`
		default:
			list[i] = "'owner1'"
		}
	}
	return strings.Join(list, ", ")
}

// fillForPlans fills the tables with the rows of a hundred owners, so that the planner sees the
// statistics of a realistic hub. Triggers do not run, because they would take most of the time.
const fillForPlans = `SET session_replication_role = replica; SET synchronous_commit = off;
	CREATE TEMPORARY VIEW i AS SELECT i, 'owner' || i % 100 AS owner, lpad(to_hex(i * 2654435761 % 4294967296), 24, '0') AS id,
		lpad(i::text, 7, '0') AS nick, decode(md5(i::text), 'hex') AS hash, i / 1000 AS many FROM generate_series(1::bigint, 10000) AS n (i);
	INSERT INTO accounts (id, nick, email, password_hash, created) SELECT id, nick, '', '', i FROM i;
	INSERT INTO enrolments (id, request_hash, state, device, owner, token, generation, ek, iak_name, idevid_name, iak_hash, idevid_hash,
		created, expires, previous, manufacturer, model, firmware, prod_model, prod_serial, key_algorithm, iak_public, ek_certificate,
		iak_cert, idevid_cert, verdict, request)
	SELECT i, hash, CASE WHEN i % 50 = 0 THEN 'p' WHEN i % 50 = 1 THEN 'x' ELSE 'a' END, id, owner, 't', 0, hash, hash, hash, hash, hash,
		i, i, nullif(i - 1, 0), 'IFX', 'm', 'f', 'p', 's', 'k', hash, hash, hash, hash, hash, hash FROM i;
	INSERT INTO tpms SELECT hash, owner, id, 0, i, i FROM i;
	INSERT INTO aiks SELECT hash, hash, id, i, i FROM i;
	INSERT INTO ek_certificates SELECT hash, i % 2, i, hash, hash FROM i;
	INSERT INTO issued_aiks (ek, name, device, issued, expires, certificate) SELECT hash, hash, id, i, i, hash FROM i;
	INSERT INTO join_tokens (id, owner, nick, public_key, expires, max_uses, uses, disabled, default_user_meta, created)
	SELECT id, 'owner' || i % 100, nick, hash, i, 0, 0, 0, '{}', i FROM i;
	INSERT INTO devices (id, nick, owner, token, enrolment, deleted, created, activated, last_seen, last_seen_addr, user_meta, device_meta, quiet)
	SELECT id, nick, CASE WHEN i % 50 = 0 THEN '' ELSE owner END, 't', i, i % 20 / 19, i, i, i, '', '{}', '{}', i % 10 / 9 FROM i;
	INSERT INTO device_search SELECT owner, nick, id, i, i, i % 10 / 9, i, 'm' || many, 'k' || many, 'f' || many, nick, 't' || many,
		CASE WHEN i % 100 = 0 THEN 'changed' ELSE '' END, 0, CASE WHEN i % 100 = 1 THEN 'QUEUED' WHEN i % 100 = 2 THEN 'ERROR' ELSE 'DONE' END, 0,
		CASE WHEN i % 100 = 3 THEN 'noted' ELSE '' END FROM i;
	INSERT INTO device_words SELECT owner, nick, nick FROM i;
	INSERT INTO device_meta_terms SELECT many, nick FROM i UNION ALL SELECT 1000 + i, nick FROM i;
	INSERT INTO fleet_counts SELECT 'owner' || i % 10, 'model', nick, i, i % 14 FROM i;
	INSERT INTO fleet_arrivals SELECT 'owner' || i % 10, i, 1 FROM i;
	INSERT INTO usage SELECT id, i FROM i;
	INSERT INTO pending_usage SELECT id, i FROM i;
	INSERT INTO events (time, kind, code, owner, device, token, addr, message, unproven) SELECT i, 'k', '', owner, id, 't', '', '', i % 2 FROM i;
	INSERT INTO waiting (owner, ek, device, token, state, codes, answered, request_hash, manufacturer, model, firmware, prod_model,
		prod_serial, key_algorithm, addr, since, last_seen, expires, decided_by, decided, verdict, request)
	SELECT owner, hash, id, 't', CASE WHEN i % 10 = 0 THEN 'w' ELSE 'a' END, '[]', CASE WHEN i % 2 = 0 THEN '[]' ELSE '["c"]' END, hash,
		'', '', '', '', '', '', '', i, i, i, '', 0, hash, hash FROM i;
	INSERT INTO trails SELECT id, owner, 1, 0, i, i FROM i;
	INSERT INTO steps (device, owner, rev, status, step_time, progress_time, modified, state_sum, committer, commit_msg, progress, meta, state)
	SELECT id, owner, i % 2, 'DONE', i, i, i, hash, '', '', '', '', '' FROM i;
	INSERT INTO log_batches SELECT i, 1, id, owner, i, 1, hash FROM i;
	INSERT INTO log_usage SELECT id, 1, 1 FROM i;
	INSERT INTO log_rules SELECT id, 1, 1, 0, '' FROM i;
	INSERT INTO ek_lists (owner, key, note) SELECT owner, hash, '' FROM i;
	ANALYZE
	`

// faults returns the steps of a plan whose cost grows with the number of rows in a table.
func faults(plan []string, mayOrder bool) (list []string) {
	for i, line := range plan {
		step := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "->"))
		switch {
		case strings.HasPrefix(step, "Seq Scan on hub_counts"): // a row for each maker of TPMs
		case strings.HasPrefix(step, "Seq Scan on config_version"): // one row
		case strings.HasPrefix(step, "Seq Scan"), strings.HasPrefix(step, "Hash Join"), strings.HasPrefix(step, "Merge Join"):
			list = append(list, step)
		case (strings.HasPrefix(step, "Sort  (") || strings.HasPrefix(step, "Incremental Sort  (")) && !mayOrder:
			list = append(list, step)
		case strings.HasPrefix(step, "Index Scan using"), strings.HasPrefix(step, "Index Only Scan using"):
			// A step that has only a filter, and no index condition, reads the whole index.
			if next := i + 1; (next >= len(plan) || !strings.Contains(plan[next], "Index Cond:")) && !wholeIndex(step) {
				list = append(list, fmt.Sprint("reads a whole index: ", step))
			}
		}
	}
	return list
}

// wholeIndex reports whether a step may read a whole index, because it contains only the rows that
// the statement needs.
func wholeIndex(step string) bool {
	for _, partial := range []string{"enrolments_expired", "devices_unclaimed", "ek_certificates_expires", "waiting_expires", "device_search_due", "enrolments_pending_"} {
		if strings.Contains(step, partial) {
			return true
		}
	}
	return false
}
