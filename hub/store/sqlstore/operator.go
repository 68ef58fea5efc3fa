package sqlstore

import (
	"context"

	"gangway/hub/store"
)

const ownerColumns = `SELECT a.id, a.nick, a.created, a.signed_in, a.disabled, a.operator, coalesce(c.n, 0), coalesce(u.bytes, 0)
	FROM accounts a LEFT JOIN fleet_counts c ON c.owner = a.id AND c.field = 'total' `

var (
	updateOperator = prepared(`UPDATE accounts SET operator = ?1 WHERE id = ?2 AND operator <> ?1`)
	selectOwners   = both(ownerColumns+`AND c.value = '' LEFT JOIN usage u ON u.owner = a.id WHERE a.nick > ? ORDER BY a.nick LIMIT ?`,
		ownerColumns+`AND lower(c.value) = '' LEFT JOIN usage u ON u.owner = a.id
		WHERE lower(a.nick) > lower(? COLLATE "C") ORDER BY lower(a.nick) LIMIT ?`)
	selectHubCount = both(`SELECT n FROM hub_counts WHERE field = ? AND value = ''`,
		`SELECT CAST(sum(n) AS bigint) FROM hub_counts WHERE field = ? AND lower(value) = '' GROUP BY field`)
	selectHubMakers = both(`SELECT value, n FROM hub_counts WHERE field = 'maker' ORDER BY value LIMIT ?`,
		`SELECT min(value), CAST(sum(n) AS bigint) FROM hub_counts WHERE field = 'maker'
		GROUP BY lower(value) HAVING sum(n) <> 0 ORDER BY lower(value) LIMIT ?`)
	countAllUndecided = prepared(`SELECT count(*) FROM (SELECT 1 FROM waiting INDEXED BY waiting_undecided WHERE state = 'w' LIMIT ?) AS undecided`)
	selectSize        = both(`SELECT page_count * page_size FROM pragma_page_count, pragma_page_size`,
		`SELECT pg_database_size(current_database())`)
)

// SetOperator implements store.HubNumbers.
func (s *Store) SetOperator(ctx context.Context, id string, operator bool, e store.Event) error {
	return s.db.Write(ctx, func(c Conn) error {
		if _, err := oneAccount(c, selectAccount, id); err != nil {
			return err
		}
		n, err := c.Exec(updateOperator, flag(operator), id)
		if err != nil || n == 0 {
			return err
		}
		return appendEvent(c, e)
	})
}

// Owners implements store.HubNumbers.
func (s *Store) Owners(ctx context.Context, after string, limit int) (owners []store.OwnerRow, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		owners = nil
		return c.Each(selectOwners, func(r Row) (bool, error) {
			o := store.OwnerRow{ID: r.text(), Nick: r.text(), Created: r.time()}
			if at := r.int64(); at != 0 {
				o.SignedIn = fromMicro(at)
			}
			o.Disabled, o.Operator, o.Devices, o.Bytes = r.bool(), r.bool(), r.int(), r.int64()
			owners = append(owners, o)
			return true, nil
		}, after, pageLimit(limit))
	})
	return owners, err
}

// HubCounts implements store.HubNumbers.
func (s *Store) HubCounts(ctx context.Context) (n store.HubCounts, err error) {
	err = s.db.Search(ctx, func(c Conn) error {
		n = store.HubCounts{}
		for _, one := range []struct {
			field string
			set   func(n int64)
		}{
			{"accounts", func(v int64) { n.Accounts = int(v) }},
			{"disabled", func(v int64) { n.Disabled = int(v) }},
			{"devices", func(v int64) { n.Devices = int(v) }},
			{"quiet", func(v int64) { n.Quiet = int(v) }},
			{"bytes", func(v int64) { n.Bytes = v }},
		} {
			r, ok, err := c.One(selectHubCount, one.field)
			if err != nil {
				return err
			}
			if ok {
				one.set(r.int64())
			}
		}
		return c.Each(selectHubMakers, func(r Row) (bool, error) {
			n.Makers = append(n.Makers, store.FacetCount{Value: r.text(), N: r.int()})
			return true, nil
		}, int64(store.MaxMakers))
	})
	return n, err
}

// CountUndecided implements store.HubNumbers.
func (s *Store) CountUndecided(ctx context.Context, limit int) (n int, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, _, err := c.One(countAllUndecided, int64(limit))
		if err == nil {
			n = r.int()
		}
		return err
	})
	return n, err
}

// DatabaseSize implements store.HubNumbers. It does not include the write-ahead log, because the
// log is short.
func (s *Store) DatabaseSize(ctx context.Context) (size int64, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, _, err := c.One(selectSize)
		if err == nil {
			size = r.int64()
		}
		return err
	})
	return size, err
}
