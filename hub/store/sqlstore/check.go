package sqlstore

import (
	"context"
	"fmt"

	"gangway/hub/store"
)

// rules are the queries for rows that break a rule. Each has the columns name and the parameter
// limit.
var rules = []struct {
	name  string
	query *Statement
}{
	// A device's certificate is in an active enrolment of the device.
	{"device-certificate", prepared(`SELECT d.id FROM devices d LEFT JOIN enrolments e ON e.id = d.enrolment
		WHERE d.deleted = 0 AND d.enrolment IS NOT NULL AND (e.id IS NULL OR e.state <> 'a' OR e.device <> d.id OR e.owner <> d.owner)
		ORDER BY d.id LIMIT ?`)},
	{"certificate-device", prepared(`SELECT e.device FROM enrolments e LEFT JOIN devices d ON d.id = e.device AND d.deleted = 0 AND d.enrolment = e.id
		WHERE e.state = 'a' AND d.id IS NULL ORDER BY e.device LIMIT ?`)},
	// The registry of TPMs has the EK of each device, and names this device and its owner.
	{"device-tpm", prepared(`SELECT d.id FROM devices d JOIN enrolments e ON e.id = d.enrolment LEFT JOIN tpms t ON t.ek = e.ek
		WHERE d.deleted = 0 AND (t.ek IS NULL OR t.device <> d.id OR t.owner <> d.owner) ORDER BY d.id LIMIT ?`)},
	{"tpm-device", prepared(`SELECT t.device FROM tpms t LEFT JOIN devices d ON d.id = t.device AND d.deleted = 0
		WHERE t.device <> '' AND d.id IS NULL ORDER BY t.device LIMIT ?`)},
	// The registry of AIKs has the AIK of each active enrolment, and names the enrolment's device
	// and EK.
	{"certificate-aik", prepared(`SELECT e.device FROM enrolments e LEFT JOIN aiks a ON a.name = e.iak_name
		WHERE e.state = 'a' AND (a.name IS NULL OR a.device <> e.device OR a.ek <> e.ek) ORDER BY e.device LIMIT ?`)},
	{"aik-device", prepared(`SELECT a.device FROM aiks a LEFT JOIN devices d ON d.id = a.device AND d.deleted = 0
		WHERE d.id IS NULL ORDER BY a.device LIMIT ?`)},
	{"token-uses", prepared(`SELECT t.id FROM join_tokens t WHERE t.uses <> (SELECT count(*) FROM token_uses u WHERE u.token = t.id)
		+ (SELECT count(*) FROM devices d WHERE d.token = t.id)
		ORDER BY t.id LIMIT ?`)},
	// The newest revision of a trail exists, and so does each object that a revision names.
	{"trail-revision", prepared(`SELECT t.device FROM trails t WHERE t.rev <> (SELECT coalesce(max(s.rev), -1) FROM steps s WHERE s.device = t.device)
		ORDER BY t.device LIMIT ?`)},
	{"revision-object", prepared(`SELECT s.device FROM step_objects s LEFT JOIN objects o ON o.owner = s.owner AND o.sum = s.sum
		WHERE o.owner IS NULL ORDER BY s.device LIMIT ?`)},
	// Each counter equals the number or the size of the rows that it counts.
	{"usage", prepared(fmt.Sprintf(`SELECT owner FROM (SELECT owner, sum(bytes) AS difference FROM (
		SELECT owner, %d + CASE WHEN stored = 1 THEN size ELSE 0 END AS bytes FROM objects
		UNION ALL SELECT owner, length(state) + %d FROM steps UNION ALL SELECT owner, size FROM uploads
		UNION ALL SELECT owner, -bytes FROM usage) AS used GROUP BY owner) AS sums
		WHERE difference <> 0 ORDER BY owner LIMIT ?`, recordCost, revisionCost))},
	{"log-count", prepared(`SELECT device FROM (SELECT device, sum(n) AS difference FROM (
		SELECT device, sum(n) AS n FROM log_batches GROUP BY device UNION ALL SELECT device, -rows FROM log_usage) AS lines GROUP BY device) AS sums
		WHERE difference <> 0 ORDER BY device LIMIT ?`)},
	{"search-device", prepared(`SELECT d.id FROM devices d LEFT JOIN device_search s ON s.owner = d.owner AND s.nick = d.nick
		WHERE d.deleted = 0 AND d.owner <> '' AND (s.nick IS NULL OR s.device <> d.id) ORDER BY d.id LIMIT ?`)},
	{"device-search", prepared(`SELECT s.device FROM device_search s LEFT JOIN devices d ON d.id = s.device AND d.deleted = 0 AND d.owner = s.owner
		WHERE d.id IS NULL ORDER BY s.device LIMIT ?`)},
	{"fleet-count", prepared(`SELECT owner FROM (SELECT owner, sum(n) AS difference FROM (
		SELECT owner, count(*) AS n FROM device_search GROUP BY owner UNION ALL SELECT owner, -n FROM fleet_counts WHERE field = 'total') AS parts
		GROUP BY owner) AS sums WHERE difference <> 0 ORDER BY owner LIMIT ?`)},
	{"hub-count", prepared(`SELECT field FROM (SELECT field, sum(n) AS difference FROM (
		SELECT field, -n AS n FROM hub_counts WHERE field IN ('accounts', 'disabled', 'devices', 'quiet', 'bytes')
		UNION ALL SELECT 'accounts', count(*) FROM accounts
		UNION ALL SELECT 'disabled', count(*) FROM accounts WHERE disabled <> 0
		UNION ALL SELECT 'devices', count(*) FROM device_search
		UNION ALL SELECT 'quiet', count(*) FROM device_search WHERE quiet = 1
		UNION ALL SELECT 'bytes', bytes FROM usage) AS parts GROUP BY field) AS sums
		WHERE difference <> 0 ORDER BY field LIMIT ?`)},
}

var selectStored = prepared(`SELECT DISTINCT o.sum, o.size, (SELECT c.place FROM contents c WHERE c.sum = o.sum) FROM objects o
	WHERE o.stored = 1 AND o.sum > ? ORDER BY o.sum LIMIT ?`)

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
