package sqlstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"

	"gangway/hub/store"
)

// rules has a query for each consistency rule of the database. The query returns the rows that
// break the rule, with one column by which a person can find the row. Its only parameter is the
// maximum number of rows to return.
var rules = []struct {
	name  string
	query *Statement
}{
	// Each device's certificate belongs to an active enrolment of the same device, and vice versa.
	{"device-certificate", prepared(`SELECT d.id FROM devices d LEFT JOIN enrolments e ON e.id = d.enrolment
		WHERE d.deleted = 0 AND d.enrolment IS NOT NULL AND (e.id IS NULL OR e.state <> 'a' OR e.device <> d.id OR e.owner <> d.owner)
		ORDER BY d.id LIMIT ?`)},
	{"certificate-device", prepared(`SELECT e.device FROM enrolments e LEFT JOIN devices d ON d.id = e.device AND d.deleted = 0 AND d.enrolment = e.id
		WHERE e.state = 'a' AND d.id IS NULL ORDER BY e.device LIMIT ?`)},
	// The registry of TPMs contains the EK of each device, with the right device and owner.
	{"device-tpm", prepared(`SELECT d.id FROM devices d JOIN enrolments e ON e.id = d.enrolment LEFT JOIN tpms t ON t.ek = e.ek
		WHERE d.deleted = 0 AND (t.ek IS NULL OR t.device <> d.id OR t.owner <> d.owner OR t.enrolment <> e.id OR t.generation <> e.generation) ORDER BY d.id LIMIT ?`)},
	// If a proven EK's row in ek_certificates has no certificate, the TPM's enrolment has it.
	{"ek-certificate", prepared(`SELECT coalesce(t.device, '') AS device FROM ek_certificates c LEFT JOIN tpms t ON t.ek = c.ek
		LEFT JOIN enrolments e ON e.id = t.enrolment
		WHERE c.certificate = x'' AND (c.proven <> 1 OR e.id IS NULL OR e.ek <> c.ek OR e.request = x'') ORDER BY device LIMIT ?`)},
	{"tpm-device", prepared(`SELECT t.device FROM tpms t LEFT JOIN devices d ON d.id = t.device AND d.deleted = 0
		WHERE t.device <> '' AND d.id IS NULL ORDER BY t.device LIMIT ?`)},
	// The registry of AIKs contains the AIK of each active enrolment, with the right device and EK.
	{"certificate-aik", prepared(`SELECT e.device FROM enrolments e LEFT JOIN aiks a ON a.name = e.iak_name
		WHERE e.state = 'a' AND (a.name IS NULL OR a.device <> e.device OR a.ek <> e.ek OR a.enrolment <> e.id) ORDER BY e.device LIMIT ?`)},
	{"aik-device", prepared(`SELECT a.device FROM aiks a LEFT JOIN devices d ON d.id = a.device AND d.deleted = 0
		WHERE d.id IS NULL ORDER BY a.device LIMIT ?`)},
	{"token-uses", prepared(`SELECT t.id FROM join_tokens t WHERE t.uses <> (SELECT count(*) FROM token_uses u WHERE u.token = t.id)
		+ (SELECT count(*) FROM devices d WHERE d.token = t.id)
		ORDER BY t.id LIMIT ?`)},
	// The newest revision of each trail exists, and so does each object that a revision names.
	{"trail-revision", prepared(`SELECT t.device FROM trails t WHERE t.rev <> (SELECT coalesce(max(s.rev), -1) FROM steps s WHERE s.device = t.device)
		ORDER BY t.device LIMIT ?`)},
	{"revision-object", prepared(`SELECT s.device FROM step_objects s LEFT JOIN objects o ON o.owner = s.owner AND o.sum = s.sum
		WHERE o.owner IS NULL ORDER BY s.device LIMIT ?`)},
	// Each counter equals the number, or the total size, of the rows that it counts.
	{"usage", prepared(fmt.Sprintf(`SELECT owner FROM (SELECT owner, sum(bytes) AS difference FROM (
		SELECT owner, %d + CASE WHEN stored = 1 THEN size ELSE 0 END AS bytes FROM objects
		UNION ALL SELECT owner, length(state) + %d FROM steps UNION ALL SELECT owner, size FROM uploads
		UNION ALL SELECT owner, -bytes FROM usage) AS used GROUP BY owner) AS sums
		WHERE difference <> 0 ORDER BY owner LIMIT ?`, recordCost, revisionCost))},
	{"log-count", prepared(`SELECT device FROM (SELECT device, sum(n) AS difference, sum(size) AS sizes FROM (
		SELECT device, n, bytes AS size FROM log_batches UNION ALL SELECT device, -rows, -bytes FROM log_usage) AS lines GROUP BY device) AS sums
		WHERE difference <> 0 OR sizes <> 0 ORDER BY device LIMIT ?`)},
	{"search-device", prepared(`SELECT d.id FROM devices d LEFT JOIN device_search s ON s.owner = d.owner AND s.nick = d.nick
		WHERE d.deleted = 0 AND d.owner <> '' AND (s.nick IS NULL OR s.device <> d.id) ORDER BY d.id LIMIT ?`)},
	{"device-search", prepared(`SELECT s.device FROM device_search s LEFT JOIN devices d ON d.id = s.device AND d.deleted = 0 AND d.owner = s.owner
		WHERE d.id IS NULL ORDER BY s.device LIMIT ?`)},
	// A device's row in device_search agrees with the other rows of the device.
	{"search-columns", prepared(`SELECT d.id FROM devices d JOIN device_search s ON s.owner = d.owner AND s.nick = d.nick AND s.device = d.id
		LEFT JOIN enrolments e ON e.id = d.enrolment LEFT JOIN boot_devices b ON b.device = d.id
		LEFT JOIN trails t ON t.device = d.id LEFT JOIN steps r ON r.device = t.device AND r.rev = t.rev
		WHERE d.deleted = 0 AND (s.created <> d.created OR s.quiet <> d.quiet OR s.token <> d.token OR s.clone <> d.clone
		OR s.model <> coalesce(e.prod_model, '') OR s.maker <> coalesce(e.manufacturer, '') OR s.firmware <> coalesce(e.firmware, '')
		OR s.serial <> coalesce(e.prod_serial, '') OR s.boot <> coalesce(b.state, '') OR s.rev <> coalesce(r.rev, -1)
		OR s.status <> coalesce(r.status, '') OR s.quiet = 0 AND s.seen <> 9223372036854775807)
		ORDER BY d.id LIMIT ?`)},
	{"fleet-count", prepared(`SELECT owner FROM (SELECT owner, field, value, sum(n) AS difference FROM (
		SELECT owner, 'total' AS field, '' AS value, 1 AS n FROM device_search
		UNION ALL SELECT owner, 'model', lower(model), 1 FROM device_search
		UNION ALL SELECT owner, 'maker', lower(maker), 1 FROM device_search
		UNION ALL SELECT owner, 'firmware', lower(firmware), 1 FROM device_search
		UNION ALL SELECT owner, 'token', lower(token), 1 FROM device_search
		UNION ALL SELECT owner, 'state', 'quiet', 1 FROM device_search WHERE quiet = 1
		UNION ALL SELECT owner, 'state', 'boot-changed', 1 FROM device_search WHERE boot IN ('changed', 'refused')
		UNION ALL SELECT owner, 'state', 'updating', 1 FROM device_search WHERE status IN ('NEW', 'QUEUED', 'DOWNLOADING', 'SYNCING', 'INPROGRESS', 'TESTING')
		UNION ALL SELECT owner, 'state', 'failed', 1 FROM device_search WHERE status IN ('ERROR', 'WONTGO')
		UNION ALL SELECT owner, 'state', 'cloned', 1 FROM device_search WHERE clone <> ''
		UNION ALL SELECT owner, field, lower(value), -n FROM fleet_counts) AS parts
		GROUP BY owner, field, value) AS sums WHERE difference <> 0 GROUP BY owner ORDER BY owner LIMIT ?`)},
	// The column `size` is the binary logarithm of n, rounded down.
	{"fleet-count-size", both(`SELECT owner FROM fleet_counts WHERE n < (1 << size) OR n >= (2 << size) GROUP BY owner ORDER BY owner LIMIT ?`,
		`SELECT owner FROM fleet_counts WHERE n < (1::bigint << size::int) OR n >= (2::bigint << size::int) GROUP BY owner ORDER BY owner LIMIT ?`)},
	{"hub-count", prepared(`SELECT field FROM (SELECT field, value, sum(n) AS difference FROM (
		SELECT field, lower(value) AS value, -n AS n FROM hub_counts
		UNION ALL SELECT 'accounts', '', count(*) FROM accounts
		UNION ALL SELECT 'disabled', '', count(*) FROM accounts WHERE disabled <> 0
		UNION ALL SELECT 'devices', '', count(*) FROM device_search
		UNION ALL SELECT 'quiet', '', count(*) FROM device_search WHERE quiet = 1
		UNION ALL SELECT 'maker', lower(maker), 1 FROM device_search
		UNION ALL SELECT field, 'unknown', 1 FROM hub_counts WHERE field NOT IN ('accounts', 'disabled', 'devices', 'quiet', 'bytes', 'maker') OR field <> 'maker' AND value <> ''
		UNION ALL SELECT 'bytes', '', bytes FROM usage) AS parts GROUP BY field, value) AS sums
		WHERE difference <> 0 GROUP BY field ORDER BY field LIMIT ?`)},
	{"pending-usage", prepared(`SELECT owner FROM (SELECT owner, sum(bytes) AS difference FROM (
		SELECT owner, 1024 + length(request) + length(verdict) + length(ek_certificate) + length(ek_links) + length(iak_cert) + length(idevid_cert) AS bytes
		FROM enrolments WHERE state = 'p' UNION ALL SELECT owner, -bytes FROM pending_usage) AS used GROUP BY owner) AS sums
		WHERE difference <> 0 ORDER BY owner LIMIT ?`)},
	{"boot-count", prepared(`SELECT owner FROM (SELECT owner, part, model, value, sum(n) AS parts, sum(n_bad) AS bad FROM (
		SELECT owner, part, model, value, 1 AS n, bad AS n_bad FROM boot_parts
		UNION ALL SELECT owner, part, model, '', 1, 0 FROM boot_parts
		UNION ALL SELECT owner, part, model, value, -n, -n_bad FROM boot_cohorts) AS rows_of_parts GROUP BY owner, part, model, value) AS sums
		WHERE parts <> 0 OR bad <> 0 GROUP BY owner ORDER BY owner LIMIT ?`)},
	{"version-count", prepared(`SELECT owner FROM (SELECT owner, part, value, model, firmware, sum(n) AS parts, sum(n_bad) AS bad FROM (
		SELECT owner, part, value, model, firmware, 1 AS n, bad AS n_bad FROM boot_parts
		UNION ALL SELECT owner, part, value, model, firmware, -n, -n_bad FROM boot_versions) AS rows_of_parts GROUP BY owner, part, value, model, firmware) AS sums
		WHERE parts <> 0 OR bad <> 0 GROUP BY owner ORDER BY owner LIMIT ?`)},
	// A device's rows in boot_parts have the same owner, model and join token as its row in
	// boot_judged.
	{"boot-device", prepared(`SELECT p.device FROM boot_parts p LEFT JOIN boot_judged j ON j.device = p.device
		WHERE j.device IS NULL OR j.owner <> p.owner OR j.model <> p.model OR j.token <> p.token ORDER BY p.device LIMIT ?`)},
	{"judged-device", prepared(`SELECT j.device FROM boot_judged j LEFT JOIN devices d ON d.id = j.device AND d.deleted = 0
		WHERE d.id IS NULL OR j.owner <> d.owner ORDER BY j.device LIMIT ?`)},
	{"device-owner", prepared(`SELECT d.id FROM devices d LEFT JOIN accounts a ON a.id = d.owner
		WHERE d.deleted = 0 AND d.owner <> '' AND a.id IS NULL ORDER BY d.id LIMIT ?`)},
	{"account-credential", prepared(`SELECT c.account FROM (SELECT account FROM sessions UNION ALL SELECT account FROM api_tokens) AS c
		LEFT JOIN accounts a ON a.id = c.account WHERE a.id IS NULL ORDER BY c.account LIMIT ?`)},
	{"device-rows", prepared(`SELECT r.device FROM (SELECT device FROM device_secrets UNION SELECT device FROM boots UNION SELECT device FROM boot_devices
		UNION SELECT device FROM clones UNION SELECT device FROM chip_marks) AS r
		LEFT JOIN devices d ON d.id = r.device AND d.deleted = 0 WHERE d.id IS NULL ORDER BY r.device LIMIT ?`)},
	{"revision-trail", prepared(`SELECT s.device FROM steps s LEFT JOIN trails t ON t.device = s.device
		WHERE t.device IS NULL OR t.owner <> s.owner ORDER BY s.device LIMIT ?`)},
	{"object-revision", prepared(`SELECT o.device FROM step_objects o LEFT JOIN steps s ON s.device = o.device AND s.rev = o.rev
		WHERE s.device IS NULL OR s.owner <> o.owner ORDER BY o.device LIMIT ?`)},
	{"trail-device", prepared(`SELECT t.device FROM trails t JOIN devices d ON d.id = t.device AND d.deleted = 0
		WHERE t.owner <> d.owner ORDER BY t.device LIMIT ?`)},
	{"earlier-certificate", prepared(`SELECT e.device FROM enrolments e LEFT JOIN enrolments p ON p.id = e.previous
		WHERE e.previous IS NOT NULL AND (p.id IS NULL OR p.device <> e.device OR p.state NOT IN ('s', 'r')) ORDER BY e.device LIMIT ?`)},
}

var selectStored = prepared(`SELECT DISTINCT o.sum, o.size, (SELECT c.place FROM contents c WHERE c.sum = o.sum) FROM objects o
	WHERE o.stored = 1 AND o.sum > ? ORDER BY o.sum LIMIT ?`)

var selectIdentities = prepared(`SELECT e.id, e.state, e.device, e.owner, e.token, e.ek, e.iak_name, e.iak_hash, e.idevid_hash, e.request_hash,
	` + evidenceColumns + ` FROM enrolments e WHERE e.id > ? ORDER BY e.id LIMIT ?`)

// Identities implements store.Consistency.
func (s *Store) Identities(ctx context.Context, after int64, limit int) (list []store.Identity, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		list = nil
		chains := map[chainKey][]int{} // the positions in the list that have each chain
		err := c.Each(selectIdentities, func(r Row) (bool, error) {
			i := store.Identity{Row: r.int64()}
			e := &i.Enrolment
			if e.State, err = stateOf(r.text()); err != nil {
				i.Unreadable, err = err.Error(), nil
			}
			e.DeviceID, e.Owner, e.TokenID = r.text(), r.text(), r.text()
			e.EK, e.IAKName, e.IAKHash, e.IDevIDHash, e.RequestHash = r.hash(), r.blob(), r.hash(), r.hash(), r.hash()
			v, damaged := readEvidence(&r)
			if damaged != nil {
				i.Unreadable = damaged.Error()
			}
			v.assign(e)
			e.Model, e.IDevIDName = v.model, v.idevidName
			if v.hasChain {
				chains[v.chain] = append(chains[v.chain], len(list))
			}
			list = append(list, i)
			return true, nil
		}, after, int64(limit))
		if err != nil {
			return err
		}
		for chain, of := range chains {
			r, ok, err := c.One(selectChain, chain[:])
			if err != nil {
				return err
			}
			var links []byte
			if ok {
				links = r.blob()
			}
			for _, i := range of {
				if list[i].EKLinks = links; !ok {
					list[i].Unreadable = "the CA certificates of the EK certificate are missing"
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

var selectStates = prepared(`SELECT id, device, rev, state_sum, state FROM steps WHERE id > ? ORDER BY id LIMIT ?`)

// States implements store.Consistency.
func (s *Store) States(ctx context.Context, after int64, limit int) (list []store.RevisionState, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		list = nil
		return c.Each(selectStates, func(r Row) (bool, error) {
			list = append(list, store.RevisionState{Row: r.int64(), Device: r.text(), Rev: r.int(), Sum: r.hash(), State: r.blob()})
			return true, nil
		}, after, int64(limit))
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// hashRules are queries for stored hashes and the data that they should match. Each query has the
// columns name, hash and bytes, where `hash` must be the SHA-256 of `bytes` or, for ek_chains, its
// first 16 bytes.
var hashRules = []struct {
	name  string
	query *Statement
}{
	{"trust-fingerprint", prepared(`SELECT source, fingerprint, der FROM trusted_certificates`)},
	{"manifest-key", prepared(`SELECT owner, id, der FROM manifest_keys`)},
	{"manifest-hash", prepared(`SELECT owner, id, signed FROM manifests`)},
	{"chain-hash", both(`SELECT hex(sum), sum, links FROM ek_chains`, `SELECT encode(sum, 'hex'), sum, links FROM ek_chains`)},
}

// WrongHashes implements store.Consistency.
func (s *Store) WrongHashes(ctx context.Context) (list []store.Disagreement, err error) {
	err = s.db.Snapshot(ctx, func(c Conn) error {
		list = nil
		for _, rule := range hashRules {
			d := store.Disagreement{Rule: rule.name}
			if err := c.Each(rule.query, func(r Row) (bool, error) {
				name, sum, content := r.text(), r.blob(), r.blob()
				if is := sha256.Sum256(content); len(sum) == 0 || !bytes.HasPrefix(is[:], sum) {
					d.Rows = append(d.Rows, name)
				}
				return len(d.Rows) < 5, nil
			}); err != nil {
				return err
			}
			if len(d.Rows) > 0 {
				list = append(list, d)
			}
		}
		return nil
	})
	return list, err
}

// Disagreements implements store.Consistency.
func (s *Store) Disagreements(ctx context.Context, limit int) (list []store.Disagreement, err error) {
	err = s.db.Snapshot(ctx, func(c Conn) error {
		list = nil
		for _, rule := range rules {
			d := store.Disagreement{Rule: rule.name}
			if err := c.Each(rule.query, func(r Row) (bool, error) {
				if d.More = len(d.Rows) == limit; !d.More {
					d.Rows = append(d.Rows, r.text())
				}
				return !d.More, nil
			}, int64(limit)+1); err != nil {
				return err
			}
			if len(d.Rows) > 0 {
				list = append(list, d)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// StoredObjects implements store.Consistency.
func (s *Store) StoredObjects(ctx context.Context, after store.Hash, limit int) (list []store.Object, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		list = nil
		return c.Each(selectStored, func(r Row) (bool, error) {
			list = append(list, store.Object{Sum: r.hash(), Size: r.int64(), Place: r.text()})
			return true, nil
		}, after[:], int64(limit))
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}
