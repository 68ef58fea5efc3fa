package storetest

import (
	"fmt"
	"sync"
	"time"

	"gangway/hub/store"
)

var ekCertificateTests = []test{
	{"OneForEachEK", oneCertificateForAnEK},
	{"ExpiresUnlessProven", certificateExpiresUnlessProven},
	{"ActivationsOwnIsKept", activationsOwnCertificateIsKept},
	{"KeptWhenTheNextEnrolmentHasNone", keptWhenTheNextHasNone},
	{"UnprovenAreBounded", unprovenCertificatesAreBounded},
	{"ManyUnprovenAreBounded", manyUnprovenCertificatesAreBounded},
	{"SurvivesTheRelease", certificateSurvivesTheRelease},
	{"SurvivesItsPendingEnrolment", certificateSurvivesItsPendingEnrolment},
	{"SurvivesTheDeletionOfTheDevice", certificateSurvivesTheDeletion},
	{"SurvivesTheDenial", certificateSurvivesTheDenial},
	{"ActivationProvesThatOfAPendingOne", activationProvesThatOfAPendingOne},
	{"FirstPendingOneCounts", firstPendingOneCounts},
}

func kept(name, certificate string, until time.Time) store.KeptEKCertificate {
	return store.KeptEKCertificate{EK: Hash("ek " + name), Certificate: []byte(certificate), Links: []byte("links of " + certificate), Expires: until}
}

func (f *fixture) keepEK(k store.KeptEKCertificate, now time.Time, limit int) {
	f.Helper()
	f.must(f.KeepEKCertificate(f.ctx, k, now, limit))
}

// keepsEK checks that the store has the given certificate for the EK, or no certificate if
// `certificate` is empty.
func (f *fixture) keepsEK(name, certificate string, proven bool, now time.Time) {
	f.Helper()
	k, err := f.EKCertificate(f.ctx, Hash("ek "+name), now)
	if certificate == "" {
		f.refused(err, store.ErrNotFound)
		return
	}
	f.must(err)
	equal(f, "certificate", string(k.Certificate), certificate)
	equal(f, "proven", k.Proven, proven)
	if k.Proven != k.Expires.IsZero() {
		f.Fatalf("proven %v, expires %v", k.Proven, k.Expires)
	}
}

func oneCertificateForAnEK(f *fixture) {
	f.keepsEK("raft", "", false, Epoch)
	until := micros(Epoch.Add(week))
	first := kept("raft", "first", until)
	f.keepEK(first, Epoch, 10)
	got, err := f.EKCertificate(f.ctx, first.EK, Epoch)
	f.must(err)
	got.Expires = micros(got.Expires)
	first.Expires = first.Expires.UTC()
	equal(f, "kept", got, first)
	// Neither another certificate nor the same certificate with an earlier expiry replaces the
	// stored certificate.
	f.keepEK(kept("raft", "second", until.Add(week)), Epoch, 10)
	f.keepEK(kept("raft", "first", Epoch.Add(time.Hour)), Epoch, 10)
	f.keepsEK("raft", "first", false, until.Add(-time.Second))
	f.keepsEK("raft", "", false, until)
	// If a request contains the stored certificate again with a later expiry, the store keeps the
	// certificate until the later time. After that time, another certificate can replace it.
	f.keepEK(kept("raft", "first", until.Add(week)), Epoch, 10)
	f.keepsEK("raft", "first", false, until)
	f.keepEK(kept("raft", "second", until.Add(2*week)), until.Add(week), 10)
	f.keepsEK("raft", "second", false, until.Add(week))
}

func certificateExpiresUnlessProven(f *fixture) {
	late := Epoch.Add(week)
	f.keepEK(kept("barge", "barge's", late), Epoch, 10)
	f.keepEK(kept("raft", "raft's", late), Epoch, 10)
	f.onboard(Machine{Name: "raft"}, f.token) // with a certificate whose root the hub does not know
	f.keepsEK("raft", "raft's", true, late)
	f.keepEK(kept("raft", "another", late.Add(week)), late, 10)
	f.keepsEK("raft", "raft's", true, late)
	n, err := f.ExpireEKCertificates(f.ctx, late.Add(-time.Second), 10)
	f.must(err)
	equal(f, "expired too early", n, 0)
	n, err = f.ExpireEKCertificates(f.ctx, late, 10)
	f.must(err)
	equal(f, "expired", n, 1)
	f.keepsEK("raft", "raft's", true, late)
	f.keepsEK("barge", "", false, Epoch)
}

func activationsOwnCertificateIsKept(f *fixture) {
	m := Machine{Name: "raft"}
	f.keepEK(kept("raft", "a stranger's", Epoch.Add(week)), Epoch, 10)
	e := m.Enrolment(f.owner.ID, f.token.ID)
	e.EKKnown, e.EKLinks = true, []byte("links")
	e, err := f.BeginEnrolment(f.ctx, e, Epoch)
	f.must(err)
	f.keepsEK("raft", "a stranger's", false, Epoch)
	_, err = f.activate(e)
	f.must(err)
	f.keepsEK("raft", string(e.EKCertificate), true, Epoch)
	stored, err := f.Enrolment(f.ctx, e.RequestHash)
	f.must(err)
	equal(f, "known", stored.EKKnown, true)
	equal(f, "links", string(stored.EKLinks), "links")
	// The EK certificate of a pending enrolment is stored for UnprovenEKKeptFor, but only if the
	// hub knows the certificate's root.
	barge := Machine{Name: "barge"}.Enrolment(f.owner.ID, f.token.ID)
	barge.EKKnown = true
	_, err = f.BeginEnrolment(f.ctx, barge, Epoch)
	f.must(err)
	f.keepsEK("barge", string(barge.EKCertificate), false, Epoch.Add(store.UnprovenEKKeptFor-time.Second))
	f.keepsEK("barge", "", false, Epoch.Add(store.UnprovenEKKeptFor+time.Second))
	f.begin(Machine{Name: "tug"}, f.token)
	f.keepsEK("tug", "", false, Epoch)
}

// A TPM onboards again several times, with requests that contain no EK certificate. The store must
// keep the certificate of the first request.
func keptWhenTheNextHasNone(f *fixture) {
	for _, common := range []bool{false, true} {
		name := fmt.Sprint("raft ", common)
		e := Machine{Name: name}.Enrolment(f.owner.ID, f.token.ID)
		e.EKKnown, e.EKLinks, e.CommonLinks = true, []byte("links"), common
		_, err := f.BeginEnrolment(f.ctx, e, Epoch)
		f.must(err)
		_, err = f.activate(e)
		f.must(err)
		for i := range 5 {
			again := Machine{Name: name, Request: fmt.Sprint(i)}.Enrolment(f.owner.ID, f.token.ID)
			again.EKCertificate = nil
			_, err := f.BeginEnrolment(f.ctx, again, Epoch)
			f.must(err)
			_, err = f.activate(again)
			f.must(err)
			f.keepsEK(name, string(e.EKCertificate), true, Epoch)
			k, err := f.EKCertificate(f.ctx, e.EK, Epoch)
			f.must(err)
			equal(f, "links", string(k.Links), "links")
		}
		last := Machine{Name: name, Request: "last"}.Enrolment(f.owner.ID, f.token.ID)
		last.EKKnown, last.EKCertificate = true, []byte("another certificate")
		_, err = f.BeginEnrolment(f.ctx, last, Epoch)
		f.must(err)
		_, err = f.activate(last)
		f.must(err)
		f.keepsEK(name, "another certificate", true, Epoch)
	}
	f.agrees()
}

func unprovenCertificatesAreBounded(f *fixture) {
	f.keepEK(kept("raft", "raft's", Epoch.Add(week)), Epoch, 3)
	f.onboard(Machine{Name: "raft"}, f.token)
	for i := range 5 {
		name := fmt.Sprint("barge ", i)
		f.keepEK(kept(name, name, Epoch.Add(time.Duration(i+1)*time.Hour)), Epoch, 3)
	}
	// The unproven certificates that expire first are removed. Proven certificates stay.
	for i := range 5 {
		name := fmt.Sprint("barge ", i)
		certificate := name
		if i < 2 {
			certificate = ""
		}
		f.keepsEK(name, certificate, false, Epoch)
	}
	f.keepsEK("raft", "raft's", true, Epoch)
}

// Attack: someone with a join token sends requests with many invented EKs. A store need not enforce
// the limit at each write, but it must not keep many more certificates than the limit allows.
func manyUnprovenCertificatesAreBounded(f *fixture) {
	const limit, all = 256, 400
	var writers sync.WaitGroup
	for i := range all {
		writers.Go(func() {
			name := fmt.Sprint("barge ", i)
			if err := f.KeepEKCertificate(f.ctx, kept(name, name, Epoch.Add(week)), Epoch, limit); err != nil {
				f.Error(err)
			}
		})
	}
	writers.Wait()
	n := 0
	for i := range all {
		if _, err := f.EKCertificate(f.ctx, Hash(fmt.Sprint("ek barge ", i)), Epoch); err == nil {
			n++
		}
	}
	if n < limit || n > limit+limit/64 {
		f.Errorf("%d certificates are stored; the limit is %d", n, limit)
	}
}

func certificateSurvivesTheRelease(f *fixture) {
	f.keepEK(kept("raft", "raft's", Epoch.Add(week)), Epoch, 3)
	d := f.onboard(Machine{Name: "raft"}, f.token)
	f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch.Add(time.Hour)))
	f.keepsEK("raft", "raft's", true, Epoch.Add(2*week))
}

// beginsKnown stores a pending enrolment of a machine, with an EK certificate whose root the hub knows.
// If `common` is true, the links come from the hub's trust store.
func (f *fixture) beginsKnown(m Machine, certificate string, common bool, at time.Time) store.Enrolment {
	f.Helper()
	e := m.Enrolment(f.owner.ID, f.token.ID)
	e.Created, e.Expires = at, at.Add(time.Hour)
	e.EKKnown, e.EKCertificate, e.EKLinks, e.CommonLinks = true, []byte(certificate), []byte("links of "+certificate), common
	_, err := f.BeginEnrolment(f.ctx, e, at)
	f.must(err)
	return e
}

// Attack: a machine enrols, does not activate, and leaves out its EK certificate when the policy has
// become stricter. The store keeps the certificate when the enrolment expires.
func certificateSurvivesItsPendingEnrolment(f *fixture) {
	names := []string{"raft", "barge", "tug"}
	for i, name := range names {
		f.beginsKnown(Machine{Name: name}, name+"'s", i > 0, Epoch)
	}
	proven := f.beginsKnown(Machine{Name: "ferry"}, "ferry's", true, Epoch)
	_, err := f.activate(proven)
	f.must(err)
	f.beginsKnown(Machine{Name: "ferry", Request: "later"}, "another of the ferry's", true, Epoch)
	end := Epoch.Add(store.UnprovenEKKeptFor)
	check := func() {
		f.Helper()
		for _, name := range names {
			f.keepsEK(name, name+"'s", false, end.Add(-time.Second))
			f.keepsEK(name, "", false, end)
			k, err := f.EKCertificate(f.ctx, Hash("ek "+name), Epoch)
			f.must(err)
			equal(f, "links", string(k.Links), "links of "+name+"'s")
			equal(f, "expires", k.Expires.UnixMicro(), end.UnixMicro())
		}
		f.keepsEK("ferry", "ferry's", true, end)
	}
	check()
	for n := 4; n > 0; n -= 2 {
		expired, err := f.ExpireEnrolments(f.ctx, Epoch.Add(time.Hour), 2)
		f.must(err)
		equal(f, "expired", expired, 2)
		check()
	}
	expired, err := f.ExpireEnrolments(f.ctx, Epoch.Add(time.Hour), 2)
	f.must(err)
	equal(f, "expired", expired, 0)
	n, err := f.ExpireEKCertificates(f.ctx, end, 10)
	f.must(err)
	equal(f, "certificates that expired", n, len(names))
	f.keepsEK("ferry", "ferry's", true, end)
	f.agrees()
}

func certificateSurvivesTheDeletion(f *fixture) {
	d := f.onboard(Machine{Name: "raft"}, f.token)
	f.keepsEK("raft", "", false, Epoch)
	f.beginsKnown(Machine{Name: "raft", Request: "later"}, "raft's", false, Epoch)
	f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch.Add(time.Minute)))
	f.keepsEK("raft", "raft's", false, Epoch.Add(time.Hour))
	f.agrees()
}

func certificateSurvivesTheDenial(f *fixture) {
	m := Machine{Name: "raft"}
	e := f.beginsKnown(m, "raft's", true, Epoch)
	f.decide(f.wait(m.waiting(f.token, "a question")), false)
	equal(f, "state", f.state(e), store.Revoked)
	f.keepsEK("raft", "raft's", false, Epoch.Add(week))
}

// A machine sends its EK certificate, and then activates an enrolment without one.
func activationProvesThatOfAPendingOne(f *fixture) {
	first := f.beginsKnown(Machine{Name: "raft"}, "raft's", true, Epoch)
	second := Machine{Name: "raft", Request: "later"}.Enrolment(f.owner.ID, f.token.ID)
	second.EKCertificate = nil
	_, err := f.BeginEnrolment(f.ctx, second, Epoch)
	f.must(err)
	_, err = f.activate(second)
	f.must(err)
	f.keepsEK("raft", "raft's", true, Epoch.Add(2*store.UnprovenEKKeptFor))
	_, err = f.ExpireEnrolments(f.ctx, first.Expires, 10)
	f.must(err)
	f.keepsEK("raft", "raft's", true, Epoch.Add(2*store.UnprovenEKKeptFor))
	f.agrees()
}

// A later pending enrolment, with another EK certificate for the same EK, does not displace the
// first one, not even when both expire.
func firstPendingOneCounts(f *fixture) {
	f.beginsKnown(Machine{Name: "raft"}, "raft's", false, Epoch)
	f.beginsKnown(Machine{Name: "raft", Request: "later"}, "another", false, Epoch.Add(-time.Minute))
	f.keepsEK("raft", "raft's", false, Epoch)
	_, err := f.ExpireEnrolments(f.ctx, Epoch.Add(time.Hour), 10)
	f.must(err)
	f.keepsEK("raft", "raft's", false, Epoch.Add(time.Hour))
}
