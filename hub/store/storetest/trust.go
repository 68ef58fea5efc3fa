package storetest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"

	"gangway/hub/store"
)

// The function `trusted` returns the operator's decision `kind` on a CA certificate with the name
// `name`.
func trusted(name string, kind store.TrustKind) store.TrustedCertificate {
	der := bytesOf("ca certificate "+name, 900)
	return store.TrustedCertificate{Fingerprint: sha256.Sum256(der), DER: der, Kind: kind, Source: "file " + name + ".pem", Added: Epoch}
}

func (f *fixture) trust() ([]store.TrustedCertificate, int64) {
	f.Helper()
	certs, err := f.TrustedCertificates(f.ctx)
	f.must(err)
	version, err := f.ConfigVersion(f.ctx)
	f.must(err)
	return certs, version
}

// The method `grown` returns the config version. It fails the test unless the version is higher
// than `before`.
func (f *fixture) grown(before int64) int64 {
	f.Helper()
	_, now := f.trust()
	if now <= before {
		f.Fatalf("version %d follows %d", now, before)
	}
	return now
}

var trustTests = []test{
	{"NoneAtFirst", func(f *fixture) {
		certs, _ := f.trust()
		equal(f, "certificates", len(certs), 0)
	}},
	{"PutAndListed", func(f *fixture) {
		_, version := f.trust()
		want := []store.TrustedCertificate{trusted("one", store.TrustedRoot), trusted("two", store.TrustedLink), trusted("three", store.Distrusted)}
		f.must(f.ChangeTrust(f.ctx, store.TrustChange{Put: want}))
		f.grown(version)
		slices.SortFunc(want, func(a, b store.TrustedCertificate) int { return bytes.Compare(a.Fingerprint[:], b.Fingerprint[:]) })
		certs, _ := f.trust()
		equal(f, "certificates", certs, want)
	}},
	{"PutAgainReplaces", func(f *fixture) {
		c := trusted("one", store.TrustedRoot)
		f.must(f.ChangeTrust(f.ctx, store.TrustChange{Put: []store.TrustedCertificate{c}}))
		_, version := f.trust()
		c.Kind, c.Source, c.Added = store.Distrusted, "the operator", Epoch.AddDate(0, 0, 1)
		f.must(f.ChangeTrust(f.ctx, store.TrustChange{Put: []store.TrustedCertificate{c}}))
		f.grown(version)
		certs, _ := f.trust()
		equal(f, "certificates", certs, []store.TrustedCertificate{c})
	}},
	{"Forgotten", func(f *fixture) {
		one, two := trusted("one", store.TrustedRoot), trusted("two", store.TrustedRoot)
		f.must(f.ChangeTrust(f.ctx, store.TrustChange{Put: []store.TrustedCertificate{one, two}}))
		_, version := f.trust()
		f.must(f.ChangeTrust(f.ctx, store.TrustChange{Remove: []store.Hash{one.Fingerprint}}))
		f.grown(version)
		certs, _ := f.trust()
		equal(f, "certificates", certs, []store.TrustedCertificate{two})
	}},
	{"ForgettingAnUnknownOneChangesNothing", func(f *fixture) {
		one, two := trusted("one", store.TrustedRoot), trusted("two", store.TrustedLink)
		f.must(f.ChangeTrust(f.ctx, store.TrustChange{Put: []store.TrustedCertificate{one}}))
		certs, version := f.trust()
		f.refused(f.ChangeTrust(f.ctx, store.TrustChange{
			Put:    []store.TrustedCertificate{two},
			Remove: []store.Hash{one.Fingerprint, Hash("nothing")},
			Event:  store.Event{Time: Epoch, Kind: "trust.removed"},
		}), store.ErrNotFound)
		after, same := f.trust()
		equal(f, "certificates", after, certs)
		equal(f, "version", same, version)
		events, err := f.Events(f.ctx, store.EventFilter{})
		f.must(err)
		equal(f, "events", len(events), 0)
	}},
	{"NothingIsNoChange", func(f *fixture) {
		_, version := f.trust()
		f.must(f.ChangeTrust(f.ctx, store.TrustChange{}))
		_, same := f.trust()
		equal(f, "version", same, version)
	}},
	{"InTheTrail", func(f *fixture) {
		want := store.Event{Time: Epoch, Kind: "trust.imported", Message: "Two roots were imported."}
		f.must(f.ChangeTrust(f.ctx, store.TrustChange{Put: []store.TrustedCertificate{trusted("one", store.TrustedRoot)}, Event: want}))
		events, err := f.Events(f.ctx, store.EventFilter{Limit: 1})
		f.must(err)
		want.Seq = events[0].Seq
		equal(f, "event", events[0], want)
	}},
	{"OtherWritesAreNoChange", func(f *fixture) {
		_, version := f.trust()
		f.onboard(Machine{Name: "one"}, f.token)
		f.must(f.AppendEvent(f.ctx, store.Event{Time: Epoch, Kind: "k"}))
		_, same := f.trust()
		equal(f, "version", same, version)
	}},
	{"ManyAtOnceEachGrow", func(f *fixture) {
		_, version := f.trust()
		const n = 32
		var wg sync.WaitGroup
		errs := make([]error, n)
		for i := range n {
			wg.Go(func() {
				errs[i] = f.ChangeTrust(f.ctx, store.TrustChange{Put: []store.TrustedCertificate{trusted(fmt.Sprint(i), store.TrustedRoot)}})
			})
		}
		wg.Wait()
		for _, err := range errs {
			f.must(err)
		}
		certs, now := f.trust()
		equal(f, "certificates", len(certs), n)
		if now < version+n {
			f.Fatalf("%d changes increased the version only from %d to %d", n, version, now)
		}
	}},
}
