package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"gangway/hub/store"
)

// The values of the column enrolments.state. The migration that creates the table explains why they
// are single letters.
const (
	statePending    = "p"
	stateActive     = "a"
	stateSuperseded = "s"
	stateRevoked    = "r"
	stateExpired    = "x"
)

func stateOf(letter string) (store.EnrolmentState, error) {
	switch letter {
	case statePending:
		return store.Pending, nil
	case stateActive:
		return store.Active, nil
	case stateSuperseded:
		return store.Superseded, nil
	case stateRevoked:
		return store.Revoked, nil
	case stateExpired:
		return store.Expired, nil
	}
	return "", fmt.Errorf("store: a stored enrolment has the unknown state %q", letter)
}

const enrolmentColumns = `SELECT e.request_hash, e.state, e.device, e.owner, e.token, e.generation,
	e.ek, e.iak_name, e.idevid_name, e.iak_hash, e.idevid_hash, e.created, e.expires,
	e.manufacturer, e.model, e.firmware, e.prod_model, e.prod_serial, e.key_algorithm, e.ek_known, ` + evidenceColumns + ` FROM enrolments e `

var (
	// Stores an enrolment. A row with the same request hash is replaced if that enrolment has
	// expired, and stays as it is otherwise. A replaced row gets a new id, so that ids are in the
	// order in which enrolments began. Changing the id is safe, because no other row refers to an
	// enrolment that was never activated.
	upsertEnrolment = both(upsertOf(`INSERT`, `VALUES (%s, 'p')`, nextSQLite), upsertOf(`INSERT`, `VALUES (%s, 'p')`, nextPostgres))
	// Stores an enrolment if what the hub assumed about it is true: see BeginEnrolmentIfUnchanged.
	//
	// SQLite copies the row of an INSERT ... SELECT into a temporary table first, which takes time.
	// So in SQLite, a wrong assumption makes the state NULL, and OR IGNORE then stores nothing,
	// because this column is NOT NULL. OR IGNORE also stores nothing if an enrolment with another
	// request hash has the same IDevID certificate.
	upsertUnchanged = both(upsertOf(`INSERT OR IGNORE`, `VALUES (%s, iif(`+unchanged+`, 'p', NULL))`, nextSQLite),
		upsertOf(`INSERT`, `SELECT %s, 'p' WHERE `+unchanged, nextPostgres))
	selectEnrolment  = prepared(enrolmentColumns + `WHERE e.request_hash = ?`)
	selectByIDevID   = prepared(enrolmentColumns + `WHERE e.idevid_hash = ?`)
	selectToActivate = prepared(`SELECT e.request_hash, e.state, e.device, e.owner, e.token, e.generation,
		e.ek, e.iak_name, e.idevid_name, e.iak_hash, e.idevid_hash, e.created, e.expires,
		e.manufacturer, e.model, e.firmware, e.prod_model, e.prod_serial, e.key_algorithm, e.ek_known, ` + evidenceColumns + `,
		(SELECT a.request_hash FROM devices d JOIN enrolments a ON a.id = d.enrolment WHERE d.id = e.device AND d.deleted = 0)
		FROM enrolments e WHERE e.idevid_hash = ?`)
	// selectOverdue selects enrolments that must expire. The last column says whether their evidence
	// may have the last copy of an EK certificate: see selectEKCertificate.
	selectOverdue = prepared(`SELECT e.id, e.ek, e.ek_known = 1 AND NOT EXISTS
		(SELECT 1 FROM tpms t JOIN enrolments a ON a.id = t.enrolment WHERE t.ek = e.ek AND a.ek_known = 1)
		FROM enrolments e WHERE e.state = 'p' AND e.expires <= ? ORDER BY e.expires LIMIT ?`)
	expireEnrolment = prepared(expire + `id = ?`)

	selectPending = prepared(`SELECT token, ek, created, expires, manufacturer, model, firmware, prod_model, prod_serial, key_algorithm
		FROM enrolments INDEXED BY enrolments_pending_owner WHERE owner = ? AND state = 'p' AND expires > ? ORDER BY id DESC LIMIT ?`)

	// Makes the oldest pending enrolments of owner ?1 expire, until the remaining ones need at most
	// ?2 bytes. At most 128 of them expire per call, because more would delay other writers. That
	// is always enough to make room for one new enrolment: 128 enrolments of the smallest size are
	// larger than one of the largest size.
	//
	// In nearly all calls, the limit is not exceeded and nothing has to expire. The innermost query
	// then reads no enrolment: SQLite reads the tables of a CROSS JOIN in their order, and
	// PostgreSQL tests the condition on a subquery before it reads a table. (SQLite would test this
	// condition for each row.)
	pushOutEnrolments = both(
		pushOut(`pending_usage g CROSS JOIN enrolments e ON e.owner = g.owner WHERE g.owner = ?1 AND g.bytes > ?2`),
		pushOut(`enrolments e WHERE e.owner = ?1 AND (SELECT u.bytes FROM pending_usage u WHERE u.owner = ?1) > ?2`))

	forgetExpired = prepared(`DELETE FROM enrolments WHERE id IN
		(SELECT id FROM enrolments WHERE state = 'x' AND expires <= ? ORDER BY expires LIMIT ?)`)
	countExpired = prepared(`SELECT count(*) FROM enrolments WHERE state = 'x'`)
)

// expire begins a statement that empties all columns of enrolments except fingerprints, names, ids
// and times. The emptied data was never proven by an activation, so the hub must not keep what it
// says about a machine and its owner.
const expire = `UPDATE enrolments SET state = 'x', manufacturer = '', model = '',
	firmware = '', prod_model = '', prod_serial = '', key_algorithm = '', iak_public = x'',
	ek_certificate = x'', iak_cert = x'', idevid_cert = x'', verdict = x'', request = x'',
	ek_known = 0, ek_links = x'' WHERE `

// pushOut returns the SQL text of pushOutEnrolments. `from` is the SQL text that selects the
// enrolments `e` of an owner whose enrolments need too many bytes.
func pushOut(from string) string {
	return expire + `id IN (SELECT id FROM
		(SELECT id, sum(bytes) OVER (ORDER BY id) - bytes AS older FROM
			(SELECT e.id, 1024 + length(e.request) + length(e.verdict) + length(e.ek_certificate) + length(e.ek_links)
				+ length(e.iak_cert) + length(e.idevid_cert) AS bytes
			FROM ` + from + ` AND e.state = 'p' ORDER BY e.id LIMIT 128) AS oldest) AS summed
		WHERE older < (SELECT u.bytes FROM pending_usage u WHERE u.owner = ?1) - ?2)`
}

// Expressions for the next row id of an enrolment.
const (
	nextSQLite   = `(SELECT max(id) + 1 FROM enrolments)`
	nextPostgres = `nextval('enrolments_id_seq')`
)

// unchanged is the condition of upsertUnchanged.
var unchanged = `(SELECT version FROM config_version) = ?
	AND EXISTS (SELECT 1 FROM join_tokens WHERE id = ? AND owner = ? AND expires > ? AND NOT (` + tokenDisabled + `))
	AND coalesce((SELECT generation FROM tpms WHERE ek = ?), 0) = ?
	AND NOT EXISTS (SELECT 1 FROM waiting w WHERE w.owner = ? AND w.ek = ? AND ` + waitsAt(`?`) + `)`

// upsertOf returns the text of upsertEnrolment. `row` is what follows the names of the columns, with
// "%s" for the values of all columns but the last, which is the state. newID is an expression for
// the next row id.
func upsertOf(insert, row, newID string) string {
	return insert + ` INTO enrolments (request_hash, device, owner, token,
		generation, ek, iak_name, idevid_name, iak_hash, idevid_hash, created, expires,
		manufacturer, model, firmware, prod_model, prod_serial, key_algorithm,
		iak_public, ek_certificate, iak_cert, idevid_cert, verdict, request, ek_known, ek_links, state)
		` + fmt.Sprintf(row, `?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, x'', x'', x'', x'', x'', ?, ?, x''`) + `
		ON CONFLICT (request_hash) DO UPDATE SET state = excluded.state, device = excluded.device,
		owner = excluded.owner, token = excluded.token, generation = excluded.generation,
		ek = excluded.ek, iak_name = excluded.iak_name, idevid_name = excluded.idevid_name,
		iak_hash = excluded.iak_hash, idevid_hash = excluded.idevid_hash,
		id = ` + newID + `,
		created = excluded.created, expires = excluded.expires,
		manufacturer = excluded.manufacturer, model = excluded.model, firmware = excluded.firmware,
		prod_model = excluded.prod_model, prod_serial = excluded.prod_serial,
		key_algorithm = excluded.key_algorithm, iak_public = excluded.iak_public,
		ek_certificate = excluded.ek_certificate, iak_cert = excluded.iak_cert,
		idevid_cert = excluded.idevid_cert, verdict = excluded.verdict, request = excluded.request,
		ek_known = excluded.ek_known, ek_links = excluded.ek_links
		WHERE enrolments.state = 'x' OR enrolments.state = 'p' AND enrolments.expires <= ?`
}

// BeginEnrolment implements store.Enrolments. The returned times are in UTC and truncated to
// microseconds. If an enrolment with another RequestHash has the same IDevID certificate,
// BeginEnrolment returns store.ErrExists.
func (s *Store) BeginEnrolment(ctx context.Context, e store.Enrolment, now time.Time) (store.Enrolment, error) {
	return s.beginEnrolment(ctx, e, nil, now)
}

// BeginEnrolmentIfUnchanged implements store.Enrolments.
func (s *Store) BeginEnrolmentIfUnchanged(ctx context.Context, e store.Enrolment, version int64, now time.Time) (store.Enrolment, error) {
	return s.beginEnrolment(ctx, e, &version, now)
}

// beginEnrolment stores an enrolment. If `version` is not nil, it does what
// BeginEnrolmentIfUnchanged describes.
func (s *Store) beginEnrolment(ctx context.Context, e store.Enrolment, version *int64, now time.Time) (store.Enrolment, error) {
	e.State = store.Pending
	e.Created = fromMicro(micro(e.Created))
	e.Expires = fromMicro(micro(e.Expires))
	result := e
	v := evidenceOf(&e)
	if e.CommonLinks {
		v.share()
	}
	packed, wrote := v.pack(s.db.Shared()), false
	upsert, args := upsertEnrolment, []any{
		e.RequestHash[:], e.DeviceID, e.Owner, e.TokenID,
		int64(e.Generation), e.EK[:], e.IAKName, e.IDevIDName, e.IAKHash[:], e.IDevIDHash[:],
		micro(e.Created), micro(e.Expires), e.Manufacturer, e.Model, e.Firmware,
		e.ProdModel, e.ProdSerial, e.KeyAlgorithm, packed, flag(e.EKKnown),
	}
	if version != nil {
		upsert = upsertUnchanged
		args = append(args, *version, e.TokenID, e.Owner, micro(now), e.EK[:], int64(e.Generation), e.Owner, e.EK[:], micro(now))
	}
	args = append(args, micro(now))
	err := s.db.Write(ctx, func(c Conn) error {
		return c.Then(upsert, func(changed int64) (err error) {
			if wrote = changed != 0; !wrote {
				result, err = storedBefore(c, &e, version, now)
				return err
			}
			result = e
			if err := s.storeChain(c, v); err != nil {
				return err
			}
			return c.Again(pushOutEnrolments, e.Owner, int64(store.MaxPending))
		}, args...)
	})
	if err != nil {
		// Only the insertion of the enrolment can violate a constraint.
		return store.Enrolment{}, existsOr(err)
	}
	if v.hasChain && wrote {
		s.chains.Store(v.chain, true)
	}
	return result, nil
}

// storedBefore returns the enrolment that was stored earlier for the same request as `e`, because
// of which `e` was not stored. If `version` is not nil, an assumption of BeginEnrolmentIfUnchanged
// may be the reason instead; then storedBefore returns store.ErrChanged.
func storedBefore(c Conn, e *store.Enrolment, version *int64, now time.Time) (store.Enrolment, error) {
	if version != nil {
		t, err := tokenForEK(c, e.TokenID, e.EK, now)
		if errors.Is(err, store.ErrNotFound) {
			return store.Enrolment{}, store.ErrChanged
		}
		if err != nil {
			return store.Enrolment{}, err
		}
		if t.Waits || !t.Fits(e, *version, now) {
			return store.Enrolment{}, store.ErrChanged
		}
	}
	stored, err := oneEnrolment(c, selectEnrolment, e.RequestHash)
	if version != nil && errors.Is(err, store.ErrNotFound) {
		err = store.ErrChanged // the assumption was wrong only when the statement ran
	}
	return stored, err
}

// Enrolment implements store.Enrolments.
func (s *Store) Enrolment(ctx context.Context, request store.Hash) (e store.Enrolment, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		e, err = oneEnrolment(c, selectEnrolment, request)
		return err
	})
	return e, err
}

// EnrolmentByCertificate implements store.Enrolments.
func (s *Store) EnrolmentByCertificate(ctx context.Context, idevid store.Hash) (e store.Enrolment, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		e, err = oneEnrolment(c, selectByIDevID, idevid)
		return err
	})
	return e, err
}

// EnrolmentToActivate implements store.Enrolments.
func (s *Store) EnrolmentToActivate(ctx context.Context, idevid store.Hash) (e store.Enrolment, before store.Hash, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, err := one(c, selectToActivate, idevid[:])
		if err != nil {
			return err
		}
		if e, err = startOfEnrolment(&r); err != nil {
			return err
		}
		e.EKKnown = r.bool()
		v, err := readEvidence(&r)
		e.EKCertificate = v.ekCertificate
		before = r.hash()
		return err
	})
	if err != nil {
		return store.Enrolment{}, store.Hash{}, err
	}
	return e, before, nil
}

// PendingEnrolments implements store.Enrolments.
func (s *Store) PendingEnrolments(ctx context.Context, owner string, now time.Time, limit int) (list []store.Enrolment, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		list = nil
		return c.Each(selectPending, func(r Row) (bool, error) {
			e := store.Enrolment{State: store.Pending, Owner: owner, TokenID: r.text(), EK: r.hash(), Created: r.time(), Expires: r.time()}
			e.Manufacturer, e.Model, e.Firmware = r.text(), r.text(), r.text()
			e.ProdModel, e.ProdSerial, e.KeyAlgorithm = r.text(), r.text(), r.text()
			list = append(list, e)
			return true, nil
		}, owner, micro(now), pageLimit(limit))
	})
	return list, err
}

func oneEnrolment(c Conn, query *Statement, key store.Hash) (store.Enrolment, error) {
	r, err := one(c, query, key[:])
	if err != nil {
		return store.Enrolment{}, err
	}
	e, err := startOfEnrolment(&r)
	if err != nil {
		return store.Enrolment{}, err
	}
	e.EKKnown = r.bool()
	v, err := readEvidence(&r)
	if err == nil {
		err = v.withLinks(c)
	}
	if err != nil {
		return store.Enrolment{}, fmt.Errorf("enrolment of device %s: %w", e.DeviceID, err)
	}
	v.assign(&e)
	return e, nil
}

// startOfEnrolment reads the first columns of enrolmentColumns: all columns before the long ones.
func startOfEnrolment(r *Row) (e store.Enrolment, err error) {
	e.RequestHash = r.hash()
	if e.State, err = stateOf(r.text()); err != nil {
		return store.Enrolment{}, err
	}
	e.DeviceID = r.text()
	e.Owner = r.text()
	e.TokenID = r.text()
	e.Generation = r.int()
	e.EK = r.hash()
	e.IAKName = r.blob()
	e.IDevIDName = r.blob()
	e.IAKHash = r.hash()
	e.IDevIDHash = r.hash()
	e.Created = r.time()
	e.Expires = r.time()
	e.Manufacturer = r.text()
	e.Model = r.text()
	e.Firmware = r.text()
	e.ProdModel = r.text()
	e.ProdSerial = r.text()
	e.KeyAlgorithm = r.text()
	return e, nil
}

// ExpireEnrolments implements store.Enrolments. A row keeps its hashes, TPM names, ids, generation
// and times.
func (s *Store) ExpireEnrolments(ctx context.Context, now time.Time, limit int) (int, error) {
	if limit <= 0 {
		return 0, nil
	}
	type overdue struct {
		id   int64
		ek   store.Hash
		last bool
	}
	var list []overdue
	err := s.db.Write(ctx, func(c Conn) error {
		list = nil
		err := c.Each(selectOverdue, func(r Row) (bool, error) {
			list = append(list, overdue{r.int64(), r.hash(), r.bool()})
			return true, nil
		}, micro(now), int64(limit))
		for i := 0; i < len(list) && err == nil; i++ {
			if list[i].last {
				err = s.keepPending(c, list[i].ek, now)
			}
			if err == nil {
				err = c.Do(expireEnrolment, list[i].id)
			}
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(list), nil
}

// RemoveExpiredEnrolments implements store.Enrolments. It can delete the rows, because no other row
// refers to an enrolment that was never activated.
func (s *Store) RemoveExpiredEnrolments(ctx context.Context, before time.Time, keep, limit int) (removed int, err error) {
	if limit <= 0 {
		return 0, nil
	}
	err = s.db.Write(ctx, func(c Conn) error {
		n, err := c.Exec(forgetExpired, micro(before), int64(limit))
		if removed = int(n); err != nil || removed == limit {
			return err
		}
		r, _, err := c.One(countExpired)
		if err != nil {
			return err
		}
		if over := min(r.int()-keep, limit-removed); over > 0 {
			n, err = c.Exec(forgetExpired, int64(math.MaxInt64), int64(over))
			removed += int(n)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	return removed, nil
}
