package sqlstore

import (
	"context"
	"time"

	"gangway/hub/store"
)

// The store has an EK's certificate in one of these places, and prefers the first:
//
//   - the enrolment in the EK's row in tpms, if its EKKnown is true: the EK is proven,
//   - a row in ek_certificates, proven or not, or
//   - the oldest pending enrolment with this EK whose EKKnown is true: the EK is unproven.
//
// So an onboarding writes no row of ek_certificates. The store writes one if an enrolment that has
// the certificate expires before it is activated, and if the EK's next enrolment has none. In a row
// that an earlier version wrote, the certificate may be empty; then the enrolment in tpms has it.
var (
	selectEKCertificate = prepared(`SELECT certificate, links, proven, expires FROM ek_certificates
		WHERE ek = ? AND certificate <> x'' AND (proven = 1 OR expires > ?)`)
	keepEKCertificate = prepared(`INSERT INTO ek_certificates (ek, proven, expires, certificate, links) VALUES (?, 0, ?, ?, ?)
		ON CONFLICT (ek) DO UPDATE SET expires = excluded.expires, certificate = excluded.certificate, links = excluded.links
		WHERE ek_certificates.proven = 0 AND (ek_certificates.expires <= ? OR ek_certificates.certificate = excluded.certificate AND ek_certificates.expires < excluded.expires)`)
	countUnproven = prepared(`SELECT count(*) FROM ek_certificates WHERE proven = 0`)
	dropUnproven  = prepared(`DELETE FROM ek_certificates WHERE ek IN
		(SELECT ek FROM ek_certificates WHERE proven = 0 ORDER BY expires LIMIT ?)`)
	expireEKCertificates = prepared(`DELETE FROM ek_certificates WHERE ek IN
		(SELECT ek FROM ek_certificates WHERE proven = 0 AND expires <= ? ORDER BY expires LIMIT ?)`)

	// proveEK marks the certificate in ek_certificates as proven, and putProven replaces it by a
	// proven one.
	proveEK   = prepared(`UPDATE ek_certificates SET proven = 1, expires = 0 WHERE ek = ?`)
	putProven = prepared(`INSERT INTO ek_certificates (ek, proven, expires, certificate, links) VALUES (?, 1, 0, ?, ?)
		ON CONFLICT (ek) DO UPDATE SET proven = 1, expires = 0, certificate = excluded.certificate, links = excluded.links`)
	forgetEK = prepared(`DELETE FROM ek_certificates WHERE ek = ?`)

	// selectEnrolledEK selects the evidence of the enrolment in tpms, if it has the EK certificate.
	selectEnrolledEK = prepared(`SELECT ` + evidenceColumns + ` FROM tpms t JOIN enrolments e ON e.id = t.enrolment
		WHERE t.ek = ?1 AND (e.ek_known = 1 OR EXISTS (SELECT 1 FROM ek_certificates c WHERE c.ek = ?1 AND c.proven = 1 AND c.certificate = x''))`)
	selectPendingEK = prepared(`SELECT e.created, ` + evidenceColumns + ` FROM enrolments e INDEXED BY enrolments_pending_ek
		WHERE e.ek = ? AND e.state = 'p' AND e.ek_known = 1 AND e.created > ? ORDER BY e.id LIMIT 1`)
)

// prove marks the EK's certificate as proven, when the claim is accepted. It must be called before
// the EK's row in tpms is changed to the new enrolment.
func (k *claim) prove(c Conn) error {
	if k.ekKnown { // from now on, the store finds the certificate in this enrolment
		if !k.known && k.tpmGeneration == 0 {
			return nil
		}
		return c.Do(forgetEK, k.ek[:])
	}
	kept, found, err := enrolledEK(c, k.ek)
	if err != nil {
		return err
	}
	if !found {
		if n, err := c.Exec(proveEK, k.ek[:]); err != nil || n != 0 {
			return err
		}
		if kept, found, err = pendingEK(c, k.ek, k.stored.Activated); err != nil || !found {
			return err
		}
	}
	return c.Do(putProven, k.ek[:], kept.Certificate, append([]byte{}, kept.Links...))
}

// enrolledEK returns the proven certificate of an EK, if the enrolment in tpms has it.
func enrolledEK(c Conn, ek store.Hash) (k store.KeptEKCertificate, found bool, err error) {
	r, found, err := c.One(selectEnrolledEK, ek[:])
	if err != nil || !found {
		return k, false, err
	}
	k, err = keptIn(c, &r, ek)
	k.Proven = true
	return k, err == nil && len(k.Certificate) > 0, err
}

// pendingEK returns the unproven certificate of an EK, if a pending enrolment has it.
func pendingEK(c Conn, ek store.Hash, now time.Time) (k store.KeptEKCertificate, found bool, err error) {
	r, found, err := c.One(selectPendingEK, ek[:], micro(now.Add(-store.UnprovenEKKeptFor)))
	if err != nil || !found {
		return k, false, err
	}
	created := r.time()
	k, err = keptIn(c, &r, ek)
	k.Expires = created.Add(store.UnprovenEKKeptFor)
	return k, err == nil, err
}

// keptIn reads an EK's certificate and its links from the evidenceColumns of an enrolment.
func keptIn(c Conn, r *Row, ek store.Hash) (store.KeptEKCertificate, error) {
	v, err := readEvidence(r)
	if err == nil {
		err = v.withLinks(c)
	}
	return store.KeptEKCertificate{EK: ek, Certificate: v.ekCertificate, Links: v.ekLinks}, err
}

// keepPending stores the EK certificate that pendingEK finds.
func (s *Store) keepPending(c Conn, ek store.Hash, now time.Time) error {
	k, found, err := pendingEK(c, ek, now)
	if err != nil || !found {
		return err
	}
	return s.keepCertificate(c, k, now, store.MaxUnprovenEKs)
}

// EKCertificate implements store.EKCertificates.
func (s *Store) EKCertificate(ctx context.Context, ek store.Hash, now time.Time) (k store.KeptEKCertificate, err error) {
	err = s.db.Read(ctx, func(c Conn) (err error) {
		var found bool
		if k, found, err = enrolledEK(c, ek); err != nil || found {
			return err
		}
		r, found, err := c.One(selectEKCertificate, ek[:], micro(now))
		if err != nil {
			return err
		}
		if found {
			k = store.KeptEKCertificate{EK: ek, Certificate: r.blob(), Links: r.blob(), Proven: r.bool()}
			if !k.Proven {
				k.Expires = r.time()
			}
			return nil
		}
		if k, found, err = pendingEK(c, ek, now); err == nil && !found {
			err = store.ErrNotFound
		}
		return err
	})
	if err != nil {
		return store.KeptEKCertificate{}, err
	}
	return k, nil
}

// KeepEKCertificate implements store.EKCertificates.
func (s *Store) KeepEKCertificate(ctx context.Context, k store.KeptEKCertificate, now time.Time, limit int) error {
	return s.db.Write(ctx, func(c Conn) error { return s.keepCertificate(c, k, now, limit) })
}

// keepCertificate stores a certificate. It does not count the unproven certificates in every call,
// because that costs more than storing one: with a limit of 10,000, it counts in every 40th call.
func (s *Store) keepCertificate(c Conn, k store.KeptEKCertificate, now time.Time, limit int) error {
	if err := c.Do(keepEKCertificate, k.EK[:], micro(k.Expires), k.Certificate, append([]byte{}, k.Links...), micro(now)); err != nil {
		return err
	}
	if (s.unproven.Add(1)-1)%uint64(max(1, limit/256+1)) != 0 {
		return nil
	}
	r, _, err := c.One(countUnproven)
	if err != nil {
		return err
	}
	if over := r.int() - limit; over > 0 {
		err = c.Do(dropUnproven, int64(over))
	}
	return err
}

// ExpireEKCertificates implements store.EKCertificates.
func (s *Store) ExpireEKCertificates(ctx context.Context, now time.Time, limit int) (int, error) {
	return s.expire(ctx, expireEKCertificates, now, limit)
}
