package sqlstore

import (
	"context"
	"time"

	"gangway/hub/store"
)

var (
	selectEKCertificate = prepared(`SELECT certificate, links, proven, expires FROM ek_certificates
		WHERE ek = ? AND (proven = 1 OR expires > ?)`)
	keepEKCertificate = prepared(`INSERT INTO ek_certificates (ek, proven, expires, certificate, links) VALUES (?, 0, ?, ?, ?)
		ON CONFLICT (ek) DO UPDATE SET expires = excluded.expires, certificate = excluded.certificate, links = excluded.links
		WHERE ek_certificates.proven = 0 AND (ek_certificates.expires <= ? OR ek_certificates.certificate = excluded.certificate AND ek_certificates.expires < excluded.expires)`)
	countUnproven = prepared(`SELECT count(*) FROM ek_certificates WHERE proven = 0`)
	dropUnproven  = prepared(`DELETE FROM ek_certificates WHERE ek IN
		(SELECT ek FROM ek_certificates WHERE proven = 0 ORDER BY expires LIMIT ?)`)
	expireEKCertificates = prepared(`DELETE FROM ek_certificates WHERE ek IN
		(SELECT ek FROM ek_certificates WHERE proven = 0 AND expires <= ? ORDER BY expires LIMIT ?)`)

	// proveAsEnrolled marks an EK as proven, for an activated enrolment whose EKKnown is true.
	// Because the enrolment has the EK certificate, and the EK's row in tpms leads to the
	// enrolment, the row in ek_certificates has no certificate and no links. If there is already a
	// row with a certificate, forgetEK removes it first, because SQLite does not reuse the space
	// that becomes free when a row gets shorter.
	proveAsEnrolled = prepared(`INSERT INTO ek_certificates (ek, proven, expires, certificate, links) VALUES (?, 1, 0, x'', x'')
		ON CONFLICT (ek) DO NOTHING`)
	forgetEK = prepared(`DELETE FROM ek_certificates WHERE ek = ? AND certificate <> x''`)
	// proveEK marks the stored EK certificate as proven, for an activated enrolment whose EKKnown
	// is false.
	proveEK = prepared(`UPDATE ek_certificates SET proven = 1, expires = 0 WHERE ek = ? AND proven = 0`)
	// For an EK that proveAsEnrolled has marked, this statement selects the evidence of the
	// enrolment that has the EK certificate.
	selectEnrolledEK = prepared(`SELECT ` + evidenceColumns + ` FROM ek_certificates c JOIN tpms t ON t.ek = c.ek
		JOIN enrolments e ON e.id = t.enrolment WHERE c.ek = ? AND c.proven = 1 AND c.certificate = x''`)
	copyEnrolledEK = prepared(`UPDATE ek_certificates SET certificate = ?, links = ? WHERE ek = ? AND proven = 1 AND certificate = x''`)
)

// prove marks the EK's certificate as proven. It must be called before the EK's row in tpms is
// changed to the new enrolment.
func (k *claim) prove(c Conn) error {
	if k.ekKnown {
		if err := c.Do(forgetEK, k.ek[:]); err != nil {
			return err
		}
		return c.Do(proveAsEnrolled, k.ek[:])
	}
	v, found, err := enrolledEK(c, k.ek)
	if err != nil {
		return err
	}
	if found { // the earlier enrolment has the certificate
		return c.Do(copyEnrolledEK, v.ekCertificate, v.ekLinks, k.ek[:])
	}
	return c.Do(proveEK, k.ek[:])
}

// enrolledEK returns the evidence of the enrolment that has an EK's certificate, if the EK's row in
// ek_certificates does not have it.
func enrolledEK(c Conn, ek store.Hash) (v evidence, found bool, err error) {
	r, found, err := c.One(selectEnrolledEK, ek[:])
	if err != nil || !found {
		return evidence{}, false, err
	}
	if v, err = readEvidence(&r); err == nil {
		err = v.withLinks(c)
	}
	return v, true, err
}

// EKCertificate implements store.EKCertificates.
func (s *Store) EKCertificate(ctx context.Context, ek store.Hash, now time.Time) (k store.KeptEKCertificate, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, err := one(c, selectEKCertificate, ek[:], micro(now))
		if err != nil {
			return err
		}
		k = store.KeptEKCertificate{EK: ek, Certificate: r.blob(), Links: r.blob(), Proven: r.bool()}
		if !k.Proven {
			k.Expires = r.time()
		}
		if k.Proven && len(k.Certificate) == 0 {
			v, _, err := enrolledEK(c, ek)
			k.Certificate, k.Links = v.ekCertificate, v.ekLinks
			return err
		}
		return nil
	})
	return k, err
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
