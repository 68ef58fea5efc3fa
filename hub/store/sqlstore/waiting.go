package sqlstore

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"gangway/hub/store"
)

// Values of the column waiting.state.
var waitLetters = map[store.WaitingState]string{store.Undecided: "w", store.Approved: "a", store.Denied: "d"}

const waitingColumns = `SELECT owner, ek, device, token, state, codes, answered, request_hash, manufacturer, model,
	firmware, prod_model, prod_serial, key_algorithm, addr, since, last_seen, expires, decided_by, decided,
	verdict, `

// waitsAt returns the condition for a row of `waiting` that counts at the time `now`, which is a
// parameter: the owner has answered a question, or the row has not expired.
func waitsAt(now string) string { return `(answered <> '[]' OR expires > ` + now + `)` }

var (
	selectWaiting       = prepared(waitingColumns + `request FROM waiting WHERE owner = ? AND ek = ? AND ` + waitsAt(`?`))
	selectWaitingDevice = prepared(waitingColumns + `request FROM waiting WHERE device = ? AND owner = ? AND ` + waitsAt(`?`))
	selectWaitingList   = prepared(waitingColumns + `NULL FROM waiting WHERE owner = ? AND state <> 'a' AND expires > ?
		ORDER BY since DESC, id DESC LIMIT ?`)
	selectWaitingPage = prepared(waitingColumns + `NULL, id FROM waiting INDEXED BY waiting_room WHERE owner = ? AND state = ? AND state <> 'a' AND expires > ? AND (since, id) < (?, ?)
		ORDER BY since DESC, id DESC LIMIT ?`)
	countWaiting = prepared(`SELECT count(*), CAST(coalesce(sum(length(verdict) + length(request)), 0) AS bigint) FROM waiting
		WHERE owner = ? AND ek <> ? AND state = 'w' AND expires > ?`)
	upsertWaiting = prepared(`INSERT INTO waiting (owner, ek, device, token, state, codes, answered, request_hash,
		manufacturer, model, firmware, prod_model, prod_serial, key_algorithm, addr, since, last_seen, expires,
		decided_by, decided, verdict, request)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (owner, ek) DO UPDATE SET device = excluded.device, token = excluded.token,
		state = excluded.state, codes = excluded.codes,
		answered = excluded.answered, request_hash = excluded.request_hash,
		manufacturer = excluded.manufacturer, model = excluded.model, firmware = excluded.firmware,
		prod_model = excluded.prod_model, prod_serial = excluded.prod_serial,
		key_algorithm = excluded.key_algorithm, addr = excluded.addr, since = excluded.since,
		last_seen = excluded.last_seen, expires = excluded.expires, decided_by = excluded.decided_by,
		decided = excluded.decided, verdict = excluded.verdict, request = excluded.request`)
	deleteWaiting   = prepared(`DELETE FROM waiting WHERE owner = ? AND ek = ?`)
	revokePendingOf = prepared(`UPDATE enrolments SET state = 'r', verdict = x'', request = x'', ek_certificate = x'', ek_links = x''
		WHERE ek = ? AND +owner = ? AND state = 'p'`)
	expireWaiting = prepared(`DELETE FROM waiting WHERE id IN
		(SELECT id FROM waiting WHERE answered = '[]' AND expires <= ? ORDER BY expires LIMIT ?)`)
)

func readWaiting(r *Row) (w store.WaitingDevice, err error) {
	w = store.WaitingDevice{Owner: r.text(), EK: r.hash(), DeviceID: r.text(), TokenID: r.text()}
	letter := r.text()
	for state, l := range waitLetters {
		if l == letter {
			w.State = state
		}
	}
	if w.State == "" {
		return w, fmt.Errorf("store: a stored waiting device has the unknown state %q", letter)
	}
	for _, list := range []*[]string{&w.Codes, &w.Answered} {
		if err := json.Unmarshal([]byte(r.text()), list); err != nil {
			return w, fmt.Errorf("store: decode the codes of a stored waiting device: %w", err)
		}
	}
	w.RequestHash = r.hash()
	w.Manufacturer = r.text()
	w.Model = r.text()
	w.Firmware = r.text()
	w.ProdModel = r.text()
	w.ProdSerial = r.text()
	w.KeyAlgorithm = r.text()
	w.Addr = r.text()
	w.Since = r.time()
	w.LastSeen = r.time()
	w.Expires = r.time()
	w.By = r.text()
	if at := r.int64(); at != 0 {
		w.Decided = fromMicro(at)
	}
	w.Verdict = r.blob()
	w.Request = r.blob()
	return w, nil
}

func oneWaiting(c Conn, query *Statement, args ...any) (store.WaitingDevice, error) {
	r, err := one(c, query, args...)
	if err != nil {
		return store.WaitingDevice{}, err
	}
	return readWaiting(&r)
}

func putWaiting(c Conn, w store.WaitingDevice) error {
	codes, err := json.Marshal(append([]string{}, w.Codes...)) // if there are no codes, this writes an empty list, not null
	if err != nil {
		return err
	}
	answered, err := json.Marshal(append([]string{}, w.Answered...))
	if err != nil {
		return err
	}
	var decided int64
	if !w.Decided.IsZero() {
		decided = micro(w.Decided)
	}
	return c.Do(upsertWaiting, w.Owner, w.EK[:], w.DeviceID, w.TokenID, waitLetters[w.State], string(codes), string(answered),
		w.RequestHash[:], w.Manufacturer, w.Model, w.Firmware, w.ProdModel, w.ProdSerial, w.KeyAlgorithm, w.Addr,
		micro(w.Since), micro(w.LastSeen), micro(w.Expires), w.By, decided, w.Verdict, w.Request)
}

// PutWaiting implements store.WaitingDevices.
func (s *Store) PutWaiting(ctx context.Context, w store.WaitingDevice, limit int) (result store.WaitingDevice, err error) {
	w.Since, w.LastSeen, w.Expires = fromMicro(micro(w.Since)), fromMicro(micro(w.LastSeen)), fromMicro(micro(w.Expires))
	err = s.db.Write(ctx, func(c Conn) error {
		result = w
		result.State, result.Answered, result.By, result.Decided = store.Undecided, nil, "", time.Time{}
		was, err := oneWaiting(c, selectWaiting, w.Owner, w.EK[:], micro(w.LastSeen))
		known := err == nil
		if err != nil && err != store.ErrNotFound {
			return err
		}
		if known {
			result.Since, result.Answered, result.By, result.Decided = was.Since, was.Answered, was.By, was.Decided
			switch {
			case was.State == store.Denied:
				result.State, result.Expires = was.State, was.Expires
			case was.Approves(w.Codes):
				result.State = store.Approved
			}
		}
		if result.State == store.Undecided {
			r, _, err := c.One(countWaiting, w.Owner, w.EK[:], micro(w.LastSeen))
			if err != nil {
				return err
			}
			if r.int() >= limit || r.int64()+int64(len(w.Verdict)+len(w.Request)) > store.MaxWaitingBytes {
				return store.ErrFull
			}
		}
		return putWaiting(c, result)
	})
	if err != nil {
		return store.WaitingDevice{}, err
	}
	return result, nil
}

// WaitingByEK implements store.WaitingDevices.
func (s *Store) WaitingByEK(ctx context.Context, owner string, ek store.Hash, now time.Time) (w store.WaitingDevice, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		w, err = oneWaiting(c, selectWaiting, owner, ek[:], micro(now))
		return err
	})
	return w, err
}

// WaitingByID implements store.WaitingDevices.
func (s *Store) WaitingByID(ctx context.Context, owner, deviceID string, now time.Time) (w store.WaitingDevice, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		w, err = oneWaiting(c, selectWaitingDevice, deviceID, owner, micro(now))
		return err
	})
	return w, err
}

// WaitingDevices implements store.WaitingDevices.
func (s *Store) WaitingDevices(ctx context.Context, owner string, now time.Time, limit int) (list []store.WaitingDevice, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		list = nil
		return c.Each(selectWaitingList, func(r Row) (bool, error) {
			w, err := readWaiting(&r)
			list = append(list, w)
			return true, err
		}, owner, micro(now), pageLimit(limit))
	})
	return list, err
}

// writePlace encodes the place at which a page ended: the time and the row id of the page's last
// row. Rows are ordered by time and row id, newest first.
func writePlace(at, id int64) string { return fmt.Sprintf("%d.%d", at, id) }

// readPlace decodes what writePlace has encoded. If `after` is empty, it returns a place before all
// rows.
func readPlace(after string) (at, id int64, err error) {
	if after == "" {
		return math.MaxInt64, math.MaxInt64, nil
	}
	left, right, _ := strings.Cut(after, ".")
	at, err1 := strconv.ParseInt(left, 10, 64)
	id, err2 := strconv.ParseInt(right, 10, 64)
	if err1 != nil || err2 != nil {
		return 0, 0, errCursor
	}
	return at, id, nil
}

// WaitingPage implements store.WaitingDevices.
func (s *Store) WaitingPage(ctx context.Context, f store.WaitingFilter) (page store.WaitingPage, err error) {
	since, id, err := readPlace(f.After)
	if err != nil {
		return page, err
	}
	limit := pageLimit(f.Limit)
	err = s.db.Read(ctx, func(c Conn) error {
		page = store.WaitingPage{}
		since, id := since, id
		return c.Each(selectWaitingPage, func(r Row) (bool, error) {
			if int64(len(page.Rows)) == limit {
				page.Next = writePlace(since, id)
				return false, nil
			}
			w, err := readWaiting(&r)
			page.Rows = append(page.Rows, w)
			since, id = micro(w.Since), r.int64()
			return true, err
		}, f.Owner, waitLetters[f.State], micro(f.Now), since, id, limit+1)
	})
	return page, err
}

// Decide implements store.WaitingDevices.
func (s *Store) Decide(ctx context.Context, owner, deviceID string, d store.Decision) (w store.WaitingDevice, err error) {
	err = s.db.Write(ctx, func(c Conn) error {
		if w, err = oneWaiting(c, selectWaitingDevice, deviceID, owner, micro(d.At)); err != nil {
			return err
		}
		if d.Codes != nil && !slices.Equal(slices.Sorted(slices.Values(d.Codes)), slices.Sorted(slices.Values(w.Codes))) {
			return store.ErrChanged
		}
		if d.Seen != nil && *d.Seen != w.Digest() {
			return store.ErrChanged
		}
		if d.Approve {
			w.State = store.Approved
			for _, code := range w.Codes {
				if !slices.Contains(w.Answered, code) {
					w.Answered = append(w.Answered, code)
				}
			}
		} else {
			w.State, w.Answered, w.Expires = store.Denied, nil, fromMicro(micro(d.Expires))
			// The denial also revokes the owner's pending enrolments of this EK, which may have
			// begun after an earlier approval.
			if err := s.keepPending(c, w.EK, d.At); err != nil {
				return err
			}
			if err := c.Do(revokePendingOf, w.EK[:], owner); err != nil {
				return err
			}
		}
		w.By, w.Decided = d.By, fromMicro(micro(d.At))
		return putWaiting(c, w)
	})
	if err != nil {
		return store.WaitingDevice{}, err
	}
	return w, nil
}

// ExpireWaitingDevices implements store.WaitingDevices.
func (s *Store) ExpireWaitingDevices(ctx context.Context, now time.Time, limit int) (int, error) {
	return s.expire(ctx, expireWaiting, now, limit)
}
