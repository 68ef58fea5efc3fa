package sqlstore

import (
	"cmp"
	"context"
	"math/bits"
	"slices"
	"strings"
	"time"

	"gangway/hub/store"
)

var (
	selectStateCounts = prepared(`SELECT value, n FROM fleet_counts WHERE owner = ? AND field = 'state'`)
	countUndecided    = prepared(`SELECT count(*) FROM waiting INDEXED BY waiting_undecided WHERE owner = ? AND state = 'w'`)
	selectQuietest    = prepared(`SELECT seen FROM device_search INDEXED BY device_search_seen
		WHERE owner = ? AND seen < ` + seenNow + ` ORDER BY seen LIMIT 1`)
	selectArrivals = prepared(`SELECT day, n FROM fleet_arrivals WHERE owner = ? AND day > ? AND day <= ?`)
)

// CountSearch implements store.Fleet.
func (s *Store) CountSearch(ctx context.Context, q store.DeviceSearch) (n store.SearchCount, err error) {
	q.Sort, q.Descending = "", false
	f, err := newFinder(q, s.db.LastText())
	if err != nil {
		return n, err
	}
	err = s.db.Search(ctx, func(c Conn) error {
		n = store.SearchCount{}
		if len(f.conditions) == 0 {
			n.N, err = counted(c, f.owner, "total", "")
			return err
		}
		if err := f.resolve(c); err != nil {
			return err
		}
		n, err = f.count(c)
		return err
	})
	return n, err
}

func (f *finder) count(c Conn) (store.SearchCount, error) {
	only := len(f.conditions) == 1
	switch first := f.conditions[0]; {
	case only && first.exact:
		return store.SearchCount{N: first.count}, nil
	case first.count <= smallSet:
		hits, err := f.small(c)
		return store.SearchCount{N: len(hits)}, err
	case only && first.field == store.FieldMeta:
		return store.SearchCount{N: store.MaxCount, More: true}, nil
	}
	hits, complete, _, err := f.walk(c, nil, examineMost, store.MaxCount+1, colNick)
	return store.SearchCount{N: min(len(hits), store.MaxCount), More: !complete}, err
}

// FleetCounts implements store.Fleet.
func (s *Store) FleetCounts(ctx context.Context, owner string) (n store.FleetCounts, err error) {
	err = s.db.Search(ctx, func(c Conn) error {
		n = store.FleetCounts{ByState: map[string]int{}}
		for _, state := range store.States {
			n.ByState[state] = 0
		}
		if n.Total, err = counted(c, owner, "total", ""); err != nil {
			return err
		}
		if err := c.Each(selectStateCounts, func(r Row) (bool, error) {
			state := r.text()
			n.ByState[state] = r.int()
			return true, nil
		}, owner); err != nil {
			return err
		}
		n.ByState[store.StateActive] = n.Total - n.ByState[store.StateQuiet]
		r, _, err := c.One(countUndecided, owner)
		if err != nil {
			return err
		}
		n.Waiting = r.int()
		r, ok, err := c.One(selectQuietest, owner)
		if ok {
			n.Quietest = r.time()
		}
		return err
	})
	return n, err
}

// facetRows is the largest number of values that Facets reads. Facets reads them in descending
// order of `size`, which is the number of binary digits of a value's device count. So a value that
// Facets does not read has fewer than twice as many devices as any value that it reads.
const facetRows = 2000

// Facets implements store.Fleet.
func (s *Store) Facets(ctx context.Context, owner string, field store.SearchField, limit int) (top []store.FacetCount, others int, err error) {
	if _, ok := walkField[field]; !ok {
		return nil, 0, badSearch("The hub has no counts for %.64q: use model, maker, firmware or token.", string(field))
	}
	err = s.db.Search(ctx, func(c Conn) error {
		top = nil
		if others, err = counted(c, owner, "total", ""); err != nil {
			return err
		}
		// `least` is the device count of the last of the first `limit` values. The rows are ordered
		// by the number of binary digits of their counts. So once a count has fewer digits than
		// `least`, this value and all later ones have fewer devices than each value in `top`.
		least := 0
		return c.Each(selectValues, func(r Row) (bool, error) {
			one := store.FacetCount{Value: r.text(), N: r.int()}
			if len(top) >= limit && bits.Len(uint(one.N)) < bits.Len(uint(least)) {
				return false, nil
			}
			if len(top) < limit {
				least = one.N
			}
			top = append(top, one)
			return true, nil
		}, owner, string(field), int64(facetRows))
	})
	if err != nil {
		return nil, 0, err
	}
	slices.SortFunc(top, func(a, b store.FacetCount) int {
		return cmp.Or(cmp.Compare(b.N, a.N), strings.Compare(a.Value, b.Value))
	})
	top = top[:min(max(limit, 0), len(top))]
	for _, one := range top {
		others -= one.N
	}
	return top, others, nil
}

const aDay = 24 * time.Hour

// Arrivals implements store.Fleet.
func (s *Store) Arrivals(ctx context.Context, owner string, now time.Time, days int) ([]int, error) {
	days = min(max(days, 0), 366)
	today := micro(now) / aDay.Microseconds()
	list := make([]int, days)
	err := s.db.Read(ctx, func(c Conn) error {
		return c.Each(selectArrivals, func(r Row) (bool, error) {
			day := r.int64()
			list[days-1-int(today-day)] = r.int()
			return true, nil
		}, owner, today-int64(days), today)
	})
	return list, err
}
