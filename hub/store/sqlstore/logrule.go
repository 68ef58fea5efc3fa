package sqlstore

import (
	"context"
	"time"

	"gangway/hub/store"
)

var (
	selectLogRule  = prepared(`SELECT age, bytes, trimming, place FROM log_rules WHERE owner = ?`)
	selectLogRules = prepared(`SELECT owner, age, bytes FROM log_rules WHERE owner > ? ORDER BY owner LIMIT ?`)
	upsertLogRule  = prepared(`INSERT INTO log_rules (owner, age, bytes, trimming, place) VALUES (?, ?, ?, 1, '')
		ON CONFLICT (owner) DO UPDATE SET age = excluded.age, bytes = excluded.bytes, trimming = 1, place = ''`)
	deleteLogRule = prepared(`DELETE FROM log_rules WHERE owner = ?`)
	logRulePlace  = prepared(`UPDATE log_rules SET trimming = ?, place = ? WHERE owner = ?`)
	// The query also returns devices without logs, because otherwise LIMIT would not bound the
	// number of rows that it examines.
	logUsageOfOwner = prepared(`SELECT d.nick, d.id, coalesce(u.rows, 0), coalesce(u.bytes, 0) FROM devices d LEFT JOIN log_usage u ON u.device = d.id
		WHERE d.owner = ? AND d.nick > ? AND d.deleted = 0 ORDER BY d.nick LIMIT ?`)
)

func logRule(c Conn, owner string) (store.LogRule, error) {
	rule := store.LogRule{Owner: owner}
	r, ok, err := c.One(selectLogRule, owner)
	if ok {
		rule.Age, rule.Bytes = time.Duration(r.int64())*time.Second, r.int64()
	}
	return rule, err
}

// LogRule implements store.Logs.
func (s *Store) LogRule(ctx context.Context, owner string) (rule store.LogRule, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		rule, err = logRule(c, owner)
		return err
	})
	return rule, err
}

// PutLogRule implements store.Logs.
func (s *Store) PutLogRule(ctx context.Context, rule store.LogRule, e store.Event) error {
	return s.db.Write(ctx, func(c Conn) error {
		if _, err := oneAccount(c, selectAccount, rule.Owner); err != nil {
			return err
		}
		var err error
		if rule.Age == 0 && rule.Bytes == 0 {
			err = c.Do(deleteLogRule, rule.Owner)
		} else {
			err = c.Do(upsertLogRule, rule.Owner, int64(rule.Age/time.Second), rule.Bytes)
		}
		if err != nil {
			return err
		}
		return appendEvent(c, e)
	})
}

// LogRules implements store.Logs.
func (s *Store) LogRules(ctx context.Context, after string, limit int) (rules []store.LogRule, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		rules = nil
		return c.Each(selectLogRules, func(r Row) (bool, error) {
			rules = append(rules, store.LogRule{Owner: r.text(), Age: time.Duration(r.int64()) * time.Second, Bytes: r.int64()})
			return true, nil
		}, after, int64(limit))
	})
	return rules, err
}

// TrimLogs implements store.Logs. If the owner's rule changes while TrimLogs works, TrimLogs starts
// again with the owner's first device.
func (s *Store) TrimLogs(ctx context.Context, owner string, bounds store.LogBounds, limit int) (more bool, err error) {
	err = s.db.Write(ctx, func(c Conn) error {
		more = false
		r, ok, err := c.One(selectLogRule, owner)
		if err != nil || !ok {
			return err
		}
		rule := store.LogRule{Age: time.Duration(r.int64()) * time.Second, Bytes: r.int64()}
		trimming, place := r.bool(), r.text()
		if !trimming {
			return nil
		}
		_, bounds := rule.Within(0, bounds)
		if place, more, err = trimDevices(c, owner, place, bounds, limit); err != nil {
			return err
		}
		return c.Do(logRulePlace, flag(more), place, owner)
	})
	return more, err
}

// trimDevices trims the logs of the owner's devices whose nicks are after `place`. It returns the
// nick of the last device whose log is within the bounds, and whether there may be more devices.
func trimDevices(c Conn, owner, place string, bounds store.LogBounds, limit int) (string, bool, error) {
	type usage struct {
		nick, device string
		rows, bytes  int64
	}
	var list []usage
	err := c.Each(logUsageOfOwner, func(r Row) (bool, error) {
		list = append(list, usage{r.text(), r.text(), r.int64(), r.int64()})
		return true, nil
	}, owner, place, int64(limit))
	if err != nil {
		return "", false, err
	}
	left := limit
	for _, u := range list {
		rows, bytes, changed, err := trimDevice(c, u.device, u.rows, u.bytes, bounds, left)
		if err != nil {
			return "", false, err
		}
		if changed > 0 {
			if err := c.Do(putLogUsage, u.device, rows, bytes); err != nil {
				return "", false, err
			}
		}
		if left -= changed; left == 0 {
			return place, true, nil // this device's log may still be too large
		}
		place = u.nick
	}
	return place, len(list) == limit, nil
}
