package sqlstore

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"gangway/hub/store"
)

const decisionColumns = `SELECT id, owner, part, value, model, token, firmware, made, made_by, words, devices FROM boot_decisions `

var (
	selectManifestKeys = prepared(`SELECT owner, id, name, der, added FROM manifest_keys WHERE owner = ? ORDER BY name, id`)
	selectManifestKey  = prepared(`SELECT 1 FROM manifest_keys WHERE owner = ? AND id = ?`)
	keyAt              = prepared(`SELECT 1 FROM manifest_keys WHERE owner = ? LIMIT 1 OFFSET ?`)
	insertManifestKey  = prepared(`INSERT INTO manifest_keys (owner, id, name, der, added) VALUES (?, ?, ?, ?, ?)`)
	deleteManifestKey  = prepared(`DELETE FROM manifest_keys WHERE owner = ? AND id = ?`)

	selectManifests = prepared(`SELECT m.owner, m.id, m.key, m.added, m.manifest, m.signed, CASE WHEN k.id IS NULL THEN 0 ELSE 1 END
		FROM manifests m LEFT JOIN manifest_keys k ON k.owner = m.owner AND k.id = m.key WHERE m.owner = ? ORDER BY m.added DESC, m.id`)
	selectManifest = prepared(`SELECT 1 FROM manifests WHERE owner = ? AND id = ?`)
	manifestAt     = prepared(`SELECT 1 FROM manifests WHERE owner = ? LIMIT 1 OFFSET ?`)
	insertManifest = prepared(`INSERT INTO manifests (owner, id, key, added, manifest, signed) VALUES (?, ?, ?, ?, ?, ?)`)
	deleteManifest = prepared(`DELETE FROM manifests WHERE owner = ? AND id = ?`)

	selectDecisions    = prepared(decisionColumns + `WHERE owner = ? ORDER BY id DESC`)
	selectDecisionsFor = both(decisionColumns+`WHERE owner = ? AND value IN (SELECT value FROM json_each(?))`,
		decisionColumns+`WHERE owner = ? AND value = ANY(?)`)
	selectDecision = prepared(`SELECT 1 FROM boot_decisions WHERE owner = ? AND part = ? AND value = ? AND model = ? AND token = ? AND firmware = ?`)
	decisionAt     = prepared(`SELECT 1 FROM boot_decisions WHERE owner = ? LIMIT 1 OFFSET ?`)
	insertDecision = prepared(`INSERT INTO boot_decisions (owner, part, value, model, token, firmware, made, made_by, words, devices) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
	newestDecision = prepared(`SELECT id FROM boot_decisions WHERE owner = ? AND part = ? AND value = ? AND model = ? AND token = ? AND firmware = ?`)
	deleteDecision = prepared(`DELETE FROM boot_decisions WHERE owner = ? AND id = ?`)

	selectRulesVersion = prepared(`SELECT version FROM boot_rules WHERE owner = ?`)
	bumpRules          = prepared(`INSERT INTO boot_rules (owner, version) VALUES (?, 1) ON CONFLICT (owner) DO UPDATE SET version = boot_rules.version + 1`)
)

// changeRules changes an owner's rules, increases their version and appends the event, all in one
// transaction.
func (s *Store) changeRules(ctx context.Context, owner string, e store.Event, change func(c Conn) error) error {
	return s.db.Write(ctx, func(c Conn) error {
		if err := change(c); err != nil {
			return err
		}
		if err := c.Do(bumpRules, owner); err != nil {
			return err
		}
		return appendEvent(c, e)
	})
}

// The function `room` checks whether an owner may add a row. It returns store.ErrExists if there is
// already a row with this key, and store.ErrFull if the owner already has `most` rows.
func room(c Conn, find, at *Statement, most int, owner string, key ...any) error {
	if _, ok, err := c.One(find, append([]any{owner}, key...)...); err != nil {
		return err
	} else if ok {
		return store.ErrExists
	}
	if _, full, err := c.One(at, owner, int64(most-1)); err != nil {
		return err
	} else if full {
		return store.ErrFull
	}
	return nil
}

// deleteOne deletes a row, or returns store.ErrNotFound if there is no such row.
func deleteOne(c Conn, st *Statement, args ...any) error {
	n, err := c.Exec(st, args...)
	if err == nil && n == 0 {
		err = store.ErrNotFound
	}
	return err
}

// ManifestKeys implements store.BootRules.
func (s *Store) ManifestKeys(ctx context.Context, owner string) (keys []store.ManifestKey, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		keys = nil
		return c.Each(selectManifestKeys, func(r Row) (bool, error) {
			keys = append(keys, store.ManifestKey{Owner: r.text(), ID: r.hash(), Name: r.text(), DER: r.blob(), Added: r.time()})
			return true, nil
		}, owner)
	})
	return keys, err
}

// PutManifestKey implements store.BootRules.
func (s *Store) PutManifestKey(ctx context.Context, k store.ManifestKey, e store.Event) error {
	return s.changeRules(ctx, k.Owner, e, func(c Conn) error {
		if err := room(c, selectManifestKey, keyAt, store.MaxManifestKeys, k.Owner, k.ID[:]); err != nil {
			return err
		}
		return c.Do(insertManifestKey, k.Owner, k.ID[:], k.Name, k.DER, micro(k.Added))
	})
}

// DeleteManifestKey implements store.BootRules.
func (s *Store) DeleteManifestKey(ctx context.Context, owner string, id store.Hash, e store.Event) error {
	return s.changeRules(ctx, owner, e, func(c Conn) error { return deleteOne(c, deleteManifestKey, owner, id[:]) })
}

// Manifests implements store.BootRules.
func (s *Store) Manifests(ctx context.Context, owner string) (list []store.Manifest, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		list = nil
		return c.Each(selectManifests, func(r Row) (bool, error) {
			list = append(list, store.Manifest{Owner: r.text(), ID: r.hash(), Key: r.hash(), Added: r.time(), Text: r.blob(), Signed: r.blob(), Counts: r.bool()})
			return true, nil
		}, owner)
	})
	return list, err
}

// PutManifest implements store.BootRules.
func (s *Store) PutManifest(ctx context.Context, m store.Manifest, e store.Event) error {
	return s.changeRules(ctx, m.Owner, e, func(c Conn) error {
		if _, ok, err := c.One(selectManifestKey, m.Owner, m.Key[:]); err != nil {
			return err
		} else if !ok {
			return store.ErrNotFound
		}
		if err := room(c, selectManifest, manifestAt, store.MaxManifests, m.Owner, m.ID[:]); err != nil {
			return err
		}
		return c.Do(insertManifest, m.Owner, m.ID[:], m.Key[:], micro(m.Added), m.Text, m.Signed)
	})
}

// DeleteManifest implements store.BootRules.
func (s *Store) DeleteManifest(ctx context.Context, owner string, id store.Hash, e store.Event) error {
	return s.changeRules(ctx, owner, e, func(c Conn) error { return deleteOne(c, deleteManifest, owner, id[:]) })
}

func readDecision(r *Row) store.BootDecision {
	return store.BootDecision{ID: r.int64(), Owner: r.text(), Part: r.text(), Value: r.text(), Model: r.text(), Token: r.text(), Firmware: r.text(),
		Made: r.time(), MadeBy: r.text(), Words: r.text(), Devices: r.int()}
}

func (s *Store) decisions(ctx context.Context, st *Statement, args ...any) (list []store.BootDecision, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		list = nil
		return c.Each(st, func(r Row) (bool, error) {
			list = append(list, readDecision(&r))
			return true, nil
		}, args...)
	})
	return list, err
}

// BootDecisions implements store.BootRules.
func (s *Store) BootDecisions(ctx context.Context, owner string) ([]store.BootDecision, error) {
	return s.decisions(ctx, selectDecisions, owner)
}

// BootDecisionsFor implements store.BootRules.
func (s *Store) BootDecisionsFor(ctx context.Context, owner string, values []string) ([]store.BootDecision, error) {
	return s.decisions(ctx, selectDecisionsFor, owner, values)
}

// PutBootDecision implements store.BootRules.
func (s *Store) PutBootDecision(ctx context.Context, d store.BootDecision, e store.Event) (id int64, err error) {
	err = s.changeRules(ctx, d.Owner, e, func(c Conn) error {
		if err := room(c, selectDecision, decisionAt, store.MaxBootDecisions, d.Owner, d.Part, d.Value, d.Model, d.Token, d.Firmware); err != nil {
			return err
		}
		if err := c.Do(insertDecision, d.Owner, d.Part, d.Value, d.Model, d.Token, d.Firmware, micro(d.Made), d.MadeBy, d.Words, int64(d.Devices)); err != nil {
			return err
		}
		r, _, err := c.One(newestDecision, d.Owner, d.Part, d.Value, d.Model, d.Token, d.Firmware)
		if err == nil {
			id = r.int64()
		}
		return err
	})
	return id, err
}

// DeleteBootDecision implements store.BootRules.
func (s *Store) DeleteBootDecision(ctx context.Context, owner string, id int64, e store.Event) error {
	return s.changeRules(ctx, owner, e, func(c Conn) error { return deleteOne(c, deleteDecision, owner, id) })
}

// BootRulesVersion implements store.BootRules.
func (s *Store) BootRulesVersion(ctx context.Context, owner string) (version int64, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		version = 0
		r, ok, err := c.One(selectRulesVersion, owner)
		if err == nil && ok {
			version = r.int64()
		}
		return err
	})
	return version, err
}

var (
	selectStale = prepared(`SELECT j.device FROM boot_judged j WHERE j.owner = ?1
		AND j.version < (SELECT version FROM boot_rules r WHERE r.owner = ?1) ORDER BY j.version LIMIT ?2`)
	selectAllStale = prepared(`SELECT j.device FROM boot_rules r JOIN boot_judged j ON j.owner = r.owner AND j.version < r.version LIMIT ?`)
	selectJudged   = prepared(`SELECT version, model, token, firmware, ran, states FROM boot_judged WHERE device = ?`)
	upsertJudged   = prepared(`INSERT INTO boot_judged (device, owner, version, model, token, firmware, ran, states) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (device) DO UPDATE SET owner = excluded.owner, version = excluded.version, model = excluded.model, token = excluded.token,
		firmware = excluded.firmware, ran = excluded.ran, states = excluded.states`)
	deleteJudged = prepared(`DELETE FROM boot_judged WHERE device = ?`)
	selectOwner  = prepared(`SELECT owner FROM devices WHERE id = ?`)

	selectParts = prepared(`SELECT part, owner, value, model, token, firmware, bad FROM boot_parts WHERE device = ?`)
	upsertPart  = prepared(`INSERT INTO boot_parts (device, part, owner, value, model, token, firmware, bad) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (device, part) DO UPDATE SET owner = excluded.owner, value = excluded.value, model = excluded.model, token = excluded.token,
		firmware = excluded.firmware, bad = excluded.bad`)
	deleteParts = prepared(`DELETE FROM boot_parts WHERE device = ?`)

	growCohort = prepared(`INSERT INTO boot_cohorts (owner, part, model, value, n, n_bad, first, words, cause, firmware) VALUES (?, ?, ?, ?, 1, ?, ?, ?, ?, ?)
		ON CONFLICT (owner, part, model, value) DO UPDATE SET n = boot_cohorts.n + 1, n_bad = boot_cohorts.n_bad + excluded.n_bad, firmware = excluded.firmware,
		words = CASE WHEN excluded.n_bad > 0 THEN excluded.words ELSE boot_cohorts.words END,
		cause = CASE WHEN excluded.n_bad > 0 THEN excluded.cause ELSE boot_cohorts.cause END`)
	shrinkCohort = prepared(`UPDATE boot_cohorts SET n = n - 1, n_bad = n_bad - ? WHERE owner = ? AND part = ? AND model = ? AND value = ?`)
	endCohort    = prepared(`DELETE FROM boot_cohorts WHERE owner = ? AND part = ? AND model = ? AND value = ? AND n <= 0`)

	growVersion = prepared(`INSERT INTO boot_versions (owner, part, value, model, firmware, n, n_bad) VALUES (?, ?, ?, ?, ?, 1, ?)
		ON CONFLICT (owner, part, value, model, firmware) DO UPDATE SET n = boot_versions.n + 1, n_bad = boot_versions.n_bad + excluded.n_bad`)
	shrinkVersion = prepared(`UPDATE boot_versions SET n = n - 1, n_bad = n_bad - ? WHERE owner = ? AND part = ? AND value = ? AND model = ? AND firmware = ?`)
	endVersion    = prepared(`DELETE FROM boot_versions WHERE owner = ? AND part = ? AND value = ? AND model = ? AND firmware = ? AND n <= 0`)
)

// StaleBoots implements store.BootRules.
func (s *Store) StaleBoots(ctx context.Context, owner string, limit int) (ids []string, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		ids = nil
		add := func(r Row) (bool, error) {
			ids = append(ids, r.text())
			return true, nil
		}
		if owner == "" {
			return c.Each(selectAllStale, add, pageLimit(limit))
		}
		return c.Each(selectStale, add, owner, pageLimit(limit))
	})
	return ids, err
}

// JudgedBoot implements store.BootRules.
func (s *Store) JudgedBoot(ctx context.Context, device string) (j store.BootJudged, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, ok, err := c.One(selectJudged, device)
		if err == nil && !ok {
			err = store.ErrNotFound
		}
		if err == nil {
			j = store.BootJudged{Version: r.int64(), Model: r.text(), Token: r.text(), Firmware: r.text(), Ran: r.blob(), States: []byte(r.text())}
		}
		return err
	})
	return j, err
}

// placed is a row of the table boot_parts, without the columns device and part.
type placed struct {
	owner, value, model, token, firmware string
	bad                                  bool
}

// partsOf returns a device's rows of the table boot_parts, by the name of the part.
func partsOf(c Conn, device string) (map[string]placed, error) {
	parts := make(map[string]placed)
	err := c.Each(selectParts, func(r Row) (bool, error) {
		part := r.text()
		parts[part] = placed{owner: r.text(), value: r.text(), model: r.text(), token: r.text(), firmware: r.text(), bad: r.bool()}
		return true, nil
	}, device)
	return parts, err
}

// putJudged stores the verdict on a device's newest boot, and moves the device to the cohorts of
// this boot. Because most devices measure the same boot again and again, putJudged writes only the
// parts of the boot that have changed.
func putJudged(c Conn, device string, now time.Time, j *store.BootJudged) error {
	if j == nil {
		return nil
	}
	r, _, err := c.One(selectOwner, device)
	if err != nil {
		return err
	}
	owner := r.text()
	ran := j.Ran
	if len(ran) == 0 {
		if r, ok, err := c.One(selectJudged, device); err != nil {
			return err
		} else if ok {
			r.next = 4
			ran = r.blob()
		}
	}
	if err := c.Do(upsertJudged, device, owner, j.Version, j.Model, j.Token, j.Firmware, ran, cmp.Or(string(j.States), "{}")); err != nil {
		return err
	}
	before, err := partsOf(c, device)
	if err != nil {
		return err
	}
	for _, p := range j.Parts {
		is := placed{owner, p.Value, j.Model, j.Token, j.Firmware, p.Bad}
		was, ok := before[p.Part]
		if ok && was == is {
			continue
		}
		if err := c.Do(upsertPart, device, p.Part, is.owner, is.value, is.model, is.token, is.firmware, flag(is.bad)); err != nil {
			return err
		}
		if err := c.Do(growCohort, owner, p.Part, j.Model, p.Value, flag(p.Bad), micro(now), p.Words, p.Cause, j.Firmware); err != nil {
			return err
		}
		if err := c.Do(growCohort, owner, p.Part, j.Model, "", int64(0), micro(now), "", "", ""); err != nil {
			return err
		}
		if err := c.Do(growVersion, owner, p.Part, p.Value, j.Model, j.Firmware, flag(p.Bad)); err != nil {
			return err
		}
		// Add the device to the new cohort before removing it from the old one. If only the state
		// of this part of the boot has changed, both are the same cohort. If the device were its
		// only member and were removed first, the store would delete the cohort, and with it the
		// time of its first measurement.
		if ok {
			if err := leaveCohort(c, p.Part, was); err != nil {
				return err
			}
		}
	}
	return nil
}

// leaveCohort subtracts a device from the counts of its cohort, its model and its firmware version.
func leaveCohort(c Conn, part string, was placed) error {
	for value, bad := range map[string]int64{was.value: flag(was.bad), "": 0} {
		if err := c.Do(shrinkCohort, bad, was.owner, part, was.model, value); err != nil {
			return err
		}
		if err := c.Do(endCohort, was.owner, part, was.model, value); err != nil {
			return err
		}
	}
	if err := c.Do(shrinkVersion, flag(was.bad), was.owner, part, was.value, was.model, was.firmware); err != nil {
		return err
	}
	return c.Do(endVersion, was.owner, part, was.value, was.model, was.firmware)
}

// dropJudged removes a device from all cohorts, and deletes the verdict on its boot.
func dropJudged(c Conn, device string) error {
	parts, err := partsOf(c, device)
	if err != nil {
		return err
	}
	for part, was := range parts {
		if err := leaveCohort(c, part, was); err != nil {
			return err
		}
	}
	if err := c.Do(deleteParts, device); err != nil {
		return err
	}
	return c.Do(deleteJudged, device)
}

// In boot_cohorts, the row with an empty value counts all devices of a model.
const cohortColumns = `SELECT h.part, h.model, h.value, h.n, h.n_bad, h.first, h.words, h.cause, h.firmware, coalesce((SELECT t.n FROM boot_cohorts t
	WHERE t.owner = h.owner AND t.part = h.part AND t.model = h.model AND t.value = ''), 0) FROM boot_cohorts h `

var (
	selectBadCohorts = prepared(cohortColumns + `INDEXED BY boot_cohorts_bad
		WHERE h.owner = ? AND h.n_bad > 0 AND h.part <> 'firmware' ORDER BY h.n_bad, h.part, h.model LIMIT ?`)
	selectMostBad = prepared(cohortColumns + `INDEXED BY boot_cohorts_bad
		WHERE h.owner = ? AND h.n_bad > 0 AND h.part <> 'firmware' ORDER BY h.n_bad DESC, h.part DESC, h.model DESC LIMIT ?`)
	selectRareCohorts = prepared(cohortColumns + `INDEXED BY boot_cohorts_rare WHERE h.owner = ? AND h.part = ? AND h.value <> '' ORDER BY h.n LIMIT ?`)
	selectCohorts     = prepared(cohortColumns + `WHERE h.owner = ? AND h.part = ? AND h.value <> '' ORDER BY h.n DESC LIMIT ?`)
	selectOfModel     = prepared(cohortColumns + `INDEXED BY boot_cohorts_model WHERE h.owner = ? AND h.part = ? AND h.model = ? AND h.value <> '' ORDER BY h.n DESC LIMIT ?`)
	sumCohorts        = prepared(`SELECT coalesce(CAST(sum(n) AS bigint), 0), coalesce(CAST(sum(n_bad) AS bigint), 0) FROM boot_cohorts
		WHERE owner = ? AND part = ? AND value = ?`)
	selectCohort = prepared(`SELECT n, n_bad FROM boot_cohorts WHERE owner = ? AND part = ? AND model = ? AND value = ?`)

	selectMembers = prepared(`SELECT p.device, d.nick, p.bad FROM boot_parts p JOIN devices d ON d.id = p.device
		WHERE p.owner = ? AND p.part = ? AND p.value = ? LIMIT ?`)
	selectMembersOfModel = prepared(`SELECT p.device, d.nick, p.bad FROM boot_parts p JOIN devices d ON d.id = p.device
		WHERE p.owner = ? AND p.part = ? AND p.value = ? AND p.model = ? ORDER BY p.bad DESC LIMIT ?`)
	// CROSS JOIN makes SQLite begin with the table boot_versions, which has few rows. Given one of
	// these rows, each lookup in the index boot_parts_cohort is exact, and reads no row with
	// another token or another version.
	selectMembersOfVersion = prepared(membersByVersion + `LIMIT ?6`)
	selectMembersOfToken   = prepared(membersByVersion + `AND p.token = ?6 LIMIT ?7`)

	sumVersions    = prepared(`SELECT coalesce(CAST(sum(n) AS bigint), 0), coalesce(CAST(sum(n_bad) AS bigint), 0) FROM boot_versions ` + whereVersions + `AND firmware = ?5`)
	selectVersions = prepared(`SELECT firmware, n, n_bad FROM boot_versions ` + whereVersions + `LIMIT ?5`)
)

const (
	membersByVersion = `SELECT p.device, d.nick, p.bad FROM boot_versions v
		CROSS JOIN boot_parts p ON p.owner = v.owner AND p.part = v.part AND p.value = v.value AND p.model = v.model AND p.bad IN (0, 1) AND p.firmware = v.firmware
		CROSS JOIN devices d ON d.id = p.device
		WHERE v.owner = ?1 AND v.part = ?2 AND v.value = ?3 AND (?4 = '' OR v.model = ?4) AND (?5 = '' OR v.firmware = ?5) `
	whereVersions = `WHERE owner = ?1 AND part = ?2 AND value = ?3 AND (?4 = '' OR model = ?4) `
)

func (s *Store) cohorts(ctx context.Context, st *Statement, args ...any) (list []store.BootCohort, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		list = nil
		return c.Each(st, func(r Row) (bool, error) {
			list = append(list, store.BootCohort{Part: r.text(), Model: r.text(), Value: r.text(), Devices: r.int(), Bad: r.int(), First: r.time(),
				Words: r.text(), Cause: r.text(), Firmware: r.text(), Of: r.int()})
			return true, nil
		}, args...)
	})
	return list, err
}

// BadBootCohorts implements store.BootRules.
func (s *Store) BadBootCohorts(ctx context.Context, owner string, most bool, limit int) ([]store.BootCohort, error) {
	if most {
		return s.cohorts(ctx, selectMostBad, owner, pageLimit(limit))
	}
	return s.cohorts(ctx, selectBadCohorts, owner, pageLimit(limit))
}

// RareBootCohorts implements store.BootRules.
func (s *Store) RareBootCohorts(ctx context.Context, owner, part string, limit int) ([]store.BootCohort, error) {
	return s.cohorts(ctx, selectRareCohorts, owner, part, pageLimit(limit))
}

// BootCohorts implements store.BootRules.
func (s *Store) BootCohorts(ctx context.Context, owner, part, model string, limit int) ([]store.BootCohort, error) {
	if model == "" {
		return s.cohorts(ctx, selectCohorts, owner, part, pageLimit(limit))
	}
	return s.cohorts(ctx, selectOfModel, owner, part, model, pageLimit(limit))
}

// BootCohortOf implements store.BootRules.
func (s *Store) BootCohortOf(ctx context.Context, owner string, q store.BootMembers) (cohort store.BootCohort, err error) {
	cohort = store.BootCohort{Part: q.Part, Model: q.Model, Value: q.Value, Firmware: q.Firmware}
	st, args := selectCohort, []any{owner, q.Part, q.Model, q.Value}
	switch {
	case q.Firmware != "":
		st, args = sumVersions, []any{owner, q.Part, q.Value, q.Model, q.Firmware}
	case q.Model == "":
		st, args = sumCohorts, []any{owner, q.Part, q.Value}
	}
	err = s.db.Read(ctx, func(c Conn) error {
		cohort.Devices, cohort.Bad = 0, 0
		r, ok, err := c.One(st, args...)
		if err == nil && ok {
			cohort.Devices, cohort.Bad = r.int(), r.int()
		}
		return err
	})
	return cohort, err
}

// maxVersionRows is the maximum number of rows that BootVersions reads. There is one row for each
// model and version.
const maxVersionRows = 1000

// BootVersions implements store.BootRules.
func (s *Store) BootVersions(ctx context.Context, owner string, q store.BootMembers) (list []store.BootVersion, err error) {
	sums := map[string]store.BootVersion{}
	err = s.db.Read(ctx, func(c Conn) error {
		clear(sums)
		return c.Each(selectVersions, func(r Row) (bool, error) {
			firmware := r.text()
			sum := sums[firmware]
			sums[firmware] = store.BootVersion{Firmware: firmware, Devices: sum.Devices + r.int(), Bad: sum.Bad + r.int()}
			return true, nil
		}, owner, q.Part, q.Value, q.Model, pageLimit(maxVersionRows))
	})
	list = slices.SortedFunc(maps.Values(sums), func(a, b store.BootVersion) int {
		return cmp.Or(b.Devices-a.Devices, cmp.Compare(a.Firmware, b.Firmware))
	})
	if q.Limit > 0 {
		list = list[:min(len(list), q.Limit)]
	}
	return list, err
}

// BootMembers implements store.BootRules.
func (s *Store) BootMembers(ctx context.Context, owner string, q store.BootMembers) (list []store.BootMember, err error) {
	st, args := selectMembers, []any{owner, q.Part, q.Value}
	switch {
	case q.Token != "":
		st, args = selectMembersOfToken, append(args, q.Model, q.Firmware, q.Token)
	case q.Firmware != "":
		st, args = selectMembersOfVersion, append(args, q.Model, q.Firmware)
	case q.Model != "":
		st, args = selectMembersOfModel, append(args, q.Model)
	}
	args = append(args, pageLimit(q.Limit))
	err = s.db.Read(ctx, func(c Conn) error {
		list = nil
		return c.Each(st, func(r Row) (bool, error) {
			list = append(list, store.BootMember{Device: r.text(), Nick: r.text(), Bad: r.bool()})
			return true, nil
		}, args...)
	})
	return list, err
}
