package storetest

import (
	"fmt"
	"testing"

	"gangway/hub/store"
)

// Pack checks PackEvidence. The function `run` runs SQL directly on the database, bypassing the
// store. The function `count` runs a query that returns one row, and returns the number in that
// row. `literal` returns bytes as an SQL literal.
func Pack(t *testing.T, s Engine, literal func([]byte) string, run func(sql string), count func(sql string) string) {
	f := newFixture(t, s)
	var all []store.Enrolment
	for i := range 5 {
		e := Machine{Name: fmt.Sprint("old ", i)}.Enrolment(f.owner.ID, f.token.ID)
		e.EKKnown, e.EKLinks = true, []byte("links of a maker")
		if i == 3 {
			e.EKKnown, e.EKLinks = false, nil
		}
		e, err := f.BeginEnrolment(f.ctx, e, Epoch)
		f.must(err)
		_, err = f.activate(e)
		f.must(err)
		e.State = store.Active
		all = append(all, e)
		// The row as an earlier version of the hub stored it.
		run(fmt.Sprintf(`UPDATE enrolments SET iak_public = %s, ek_certificate = %s, iak_cert = %s, idevid_cert = %s, verdict = %s, request = %s, ek_links = %s WHERE request_hash = %s`,
			literal(e.IAKPublic), literal(e.EKCertificate), literal(e.IAKCert), literal(e.IDevIDCert), literal(e.Verdict), literal(e.Request), literal(e.EKLinks), literal(e.RequestHash[:])))
		if e.EKKnown {
			run(fmt.Sprintf(`INSERT INTO ek_certificates (ek, proven, expires, certificate, links) VALUES (%s, 1, 0, %s, %s)`, literal(e.EK[:]), literal(e.EKCertificate), literal(e.EKLinks)))
		}
		if i == 4 { // enrolled before the column ek_known existed
			run(fmt.Sprintf(`UPDATE enrolments SET ek_known = 0 WHERE request_hash = %s`, literal(e.RequestHash[:])))
			all[i].EKKnown = false
		}
	}
	check := func(when string) {
		t.Helper()
		for i, e := range all {
			got, err := f.Enrolment(f.ctx, e.RequestHash)
			f.must(err)
			equal(f, when, got, e)
			tpm, err := f.TPM(f.ctx, e.EK)
			f.must(err)
			equal(f, when+": the TPM's certificate", tpm.Certificate, e.EKCertificate)
			aik, err := f.AIK(f.ctx, e.IAKName)
			f.must(err)
			equal(f, when+": the AIK", [][]byte{aik.Public, aik.Certificate}, [][]byte{e.IAKPublic, e.IAKCert})
			k, err := f.EKCertificate(f.ctx, e.EK, Epoch)
			if i == 3 {
				f.refused(err, store.ErrNotFound)
				continue
			}
			f.must(err)
			equal(f, when+": the EK's certificate", [][]byte{k.Certificate, k.Links}, [][]byte{e.EKCertificate, e.EKLinks})
		}
		f.agrees()
	}
	old := func() string { return count(`SELECT count(*) FROM enrolments WHERE length(iak_public) > 0`) }
	check("before")
	equal(f, "rows to pack", old(), "5")
	for n, more := 0, true; more; n++ {
		var err error
		more, err = f.PackEvidence(f.ctx, 2)
		f.must(err)
		equal(f, "more", more, n < 2)
	}
	equal(f, "rows left", old(), "0")
	equal(f, "copies of EK certificates", count(`SELECT count(*) FROM ek_certificates WHERE length(certificate) > 0`), "0")
	equal(f, "chains", count(`SELECT count(*) FROM ek_chains`), "1")
	check("after")
}
