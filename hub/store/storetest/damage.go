package storetest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/hub/store"
)

// Damage checks that store.Consistency finds each kind of damage. The function `damage` runs SQL
// directly on the database, bypassing the store and the triggers of the schema. `empty` is the SQL
// literal for an empty blob.
func Damage(t *testing.T, s Engine, empty string, damage func(sql string)) {
	f := newFixture(t, s)
	limited := f.newToken("limited", 5)
	one, two, three := f.onboard(Machine{Name: "one"}, limited), f.onboard(Machine{Name: "two"}, f.token), f.onboard(Machine{Name: "three"}, f.token)
	used := f.keep(f.owner.ID, "used", 1000, Epoch)
	f.trail(three.ID)
	f.add(f.step(three.ID, used))
	f.logged(three.ID, Epoch.Add(time.Minute), "a line", "another line")
	f.agrees()
	in := strings.NewReplacer("$1", "'"+one.ID+"'", "$2", "'"+two.ID+"'", "$3", "'"+three.ID+"'", "$owner", "'"+f.owner.ID+"'", "$empty", empty)
	var found []string
	for _, d := range []struct{ rule, sql, row string }{
		{"device-certificate", `UPDATE enrolments SET state = 's' WHERE device = $1`, one.ID},
		{"certificate-device", `UPDATE devices SET enrolment = NULL WHERE id = $2`, two.ID},
		{"device-tpm", `DELETE FROM tpms WHERE device = $3`, three.ID},
		{"tpm-device", `UPDATE tpms SET device = 'gone' WHERE device = $2`, "gone"},
		{"certificate-aik", `DELETE FROM aiks WHERE device = $3`, three.ID},
		{"aik-device", `UPDATE aiks SET device = 'gone' WHERE device = $1`, "gone"},
		{"ek-certificate", `INSERT INTO ek_certificates (ek, proven, expires, certificate, links) VALUES ($empty, 1, 0, $empty, $empty)`, ""},
		{"token-uses", `UPDATE join_tokens SET uses = uses + 1 WHERE max_uses = 5`, limited.ID},
		{"fleet-count-size", `UPDATE fleet_counts SET size = 9 WHERE field = 'model'`, f.owner.ID},
		{"hub-count", `UPDATE hub_counts SET n = n + 1 WHERE field = 'devices'`, "devices"},
		{"fleet-count", `UPDATE fleet_counts SET n = n + 1 WHERE field = 'total'`, f.owner.ID},
		{"search-device", `UPDATE devices SET nick = 'renamed' WHERE id = $1`, one.ID},
		{"device-search", `UPDATE device_search SET device = 'gone' WHERE device = $2`, "gone"},
		{"search-columns", `UPDATE device_search SET serial = 'other' WHERE device = $3`, three.ID},
		{"pending-usage", `UPDATE pending_usage SET bytes = bytes + 1 WHERE owner = $owner`, f.owner.ID},
		{"judged-device", `INSERT INTO boot_judged (device, owner, version, model, token, firmware, ran) VALUES ('gone', $owner, 1, 'm', 't', 'f', $empty)`, "gone"},
		{"boot-count", `INSERT INTO boot_parts (device, part, owner, value, model, token, bad) VALUES ('gone', 'system', $owner, 'v', 'm', 't', 0)`, f.owner.ID},
		{"", `INSERT INTO boot_versions (owner, part, value, model, firmware, n, n_bad) VALUES ($owner, 'system', 'v', 'm', '', 1, 0)`, ""},
		{"version-count", `INSERT INTO boot_versions (owner, part, value, model, firmware, n, n_bad) VALUES ($owner, 'system', 'v', 'm', 'f', 7, 0)`, f.owner.ID},
		{"boot-device", `UPDATE boot_parts SET token = 'other'`, "gone"},
		{"account-credential", `INSERT INTO sessions (token_hash, account, created, expires) VALUES ($empty, 'gone', 1, 1)`, "gone"},
		{"device-rows", `INSERT INTO device_secrets (device, secret, expires) VALUES ('gone', $empty, 0)`, "gone"},
		{"log-count", `UPDATE log_usage SET rows = rows + 1 WHERE device = $3`, three.ID},
		{"trail-revision", `UPDATE trails SET rev = rev + 7 WHERE device = $3`, three.ID},
		{"usage", `UPDATE usage SET bytes = bytes + 1 WHERE owner = $owner`, f.owner.ID},
		{"revision-object", `DELETE FROM objects WHERE owner = $owner`, three.ID},
		{"object-revision", `UPDATE step_objects SET rev = 99 WHERE device = $3`, three.ID},
		{"revision-trail", `UPDATE steps SET owner = 'gone' WHERE device = $3`, three.ID},
		{"trail-device", `UPDATE trails SET owner = 'elsewhere' WHERE device = $3`, three.ID},
		{"earlier-certificate", `UPDATE enrolments SET previous = id WHERE device = $3`, three.ID},
		{"device-owner", `UPDATE devices SET owner = 'gone' WHERE id = $2`, two.ID},
	} {
		if d.rule != "" && slices.Contains(found, d.rule) {
			t.Fatalf("the rule %s is broken before the test damages a row", d.rule)
		}
		damage(in.Replace(d.sql))
		list, err := s.Disagreements(f.ctx, 10)
		f.must(err)
		found = nil
		for _, one := range list {
			found = append(found, one.Rule)
		}
		if d.rule == "" {
			continue // it only prepares the next damage
		}
		if i := slices.Index(found, d.rule); i < 0 || !slices.Contains(list[i].Rows, d.row) {
			t.Errorf("%s: found %+v", d.sql, list)
		}
	}
	// The rule device-rows applies to several tables.
	for table, insert := range map[string]string{
		"boots":        `(device, time, state, measurement, changes, nonce, attest, signature, log) VALUES ($name, 1, 's', $empty, $empty, $empty, $empty, $empty, $empty)`,
		"boot_devices": `(device, state, requested) VALUES ($name, 's', 0)`,
		"clones":       `(device, version, record) VALUES ($name, 1, $empty)`,
		"chip_marks":   `(mark, device) VALUES ($empty, $name)`,
	} {
		damage(strings.NewReplacer("$name", "'in-"+table+"'", "$empty", empty).Replace("INSERT INTO " + table + " " + insert))
		list, err := s.Disagreements(f.ctx, 10)
		f.must(err)
		if !slices.ContainsFunc(list, func(d store.Disagreement) bool {
			return d.Rule == "device-rows" && slices.Contains(d.Rows, "in-"+table)
		}) {
			t.Errorf("the check did not find the row of %s that belongs to no device; it found %+v", table, list)
		}
	}
	damage(`UPDATE join_tokens SET uses = uses + 9`)
	list, err := s.Disagreements(f.ctx, 1)
	f.must(err)
	if i := slices.Index(found, "token-uses"); i < 0 || len(list[i].Rows) != 1 || !list[i].More {
		t.Errorf("two join tokens have a wrong number of uses; the list of at most one of them is %+v", list)
	}
	if got, all := len(found), len(Rules); got < all {
		t.Errorf("after all damage, only %d of %d rules are broken: %s", got, all, found)
	}
}

// Rules lists the names of all rules of store.Consistency.
var Rules = []string{
	"device-certificate", "certificate-device", "device-tpm", "ek-certificate", "tpm-device", "certificate-aik", "aik-device", "token-uses", "trail-revision",
	"revision-object", "usage", "log-count", "search-device", "device-search", "fleet-count", "hub-count",
	"search-columns", "fleet-count-size", "pending-usage", "boot-count", "version-count", "boot-device", "judged-device", "device-owner", "account-credential",
	"device-rows", "revision-trail", "object-revision", "trail-device", "earlier-certificate",
}

var checkTests = []test{
	{"NewDatabaseAgrees", func(f *fixture) {
		list, err := f.Disagreements(f.ctx, 1)
		f.must(err)
		equal(f, "disagreements of a new database", len(list), 0)
	}},
	{"StoredObjects", func(f *fixture) {
		for _, name := range []string{"a", "b", "c"} {
			f.keep(f.owner.ID, name, 10, Epoch)
		}
		f.keep(f.other.ID, "a", 10, Epoch) // two owners, one stored object
		f.announce(f.owner.ID, "announced", 10, Epoch)
		var after store.Hash
		n := 0
		for {
			list, err := f.StoredObjects(f.ctx, after, 2)
			f.must(err)
			if len(list) == 0 {
				break
			}
			n += len(list)
			after = list[len(list)-1].Sum
		}
		equal(f, "objects", n, 3)
	}},
}
