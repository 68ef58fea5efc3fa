package storetest

import (
	"fmt"
	"time"

	"gangway/hub/store"
)

var issuedTests = []test{
	{"IsKeptUntilItExpires", func(f *fixture) {
		a := issued("one", "aik")
		first, err := f.RecordIssuedAIK(f.ctx, a, 10)
		f.must(err)
		equal(f, "first", first, true)
		got, err := f.IssuedAIK(f.ctx, a.EK, a.Name, Epoch)
		f.must(err)
		equal(f, "row", got, a)
		again := a
		again.Certificate, again.DeviceID, again.Issued = []byte("another"), ID("later"), Epoch.Add(time.Minute)
		first, err = f.RecordIssuedAIK(f.ctx, again, 10)
		f.must(err)
		equal(f, "first", first, false)
		got, err = f.IssuedAIK(f.ctx, a.EK, a.Name, Epoch)
		f.must(err)
		equal(f, "row", got, again)
		_, err = f.IssuedAIK(f.ctx, a.EK, a.Name, a.Expires)
		f.refused(err, store.ErrNotFound)
		_, err = f.IssuedAIK(f.ctx, Hash("another ek"), a.Name, Epoch)
		f.refused(err, store.ErrNotFound)
		n, err := f.ExpireIssuedAIKs(f.ctx, a.Expires.Add(-time.Second), 10)
		f.must(err)
		equal(f, "expired", n, 0)
		n, err = f.ExpireIssuedAIKs(f.ctx, a.Expires, 10)
		f.must(err)
		equal(f, "expired", n, 1)
	}},
	{"OldestOfAnEKGoes", func(f *fixture) {
		for i := range store.MaxIssuedPerEK + 2 {
			a := issued("one", fmt.Sprint(i))
			a.Issued = Epoch.Add(time.Duration(i) * time.Second)
			_, err := f.RecordIssuedAIK(f.ctx, a, store.MaxIssuedPerEK+1)
			f.must(err)
		}
		for i := range store.MaxIssuedPerEK + 2 {
			_, err := f.IssuedAIK(f.ctx, Hash("ek one"), issued("one", fmt.Sprint(i)).Name, Epoch)
			if i < 2 {
				f.refused(err, store.ErrNotFound)
			} else {
				f.must(err)
			}
		}
	}},
	{"IsBounded", func(f *fixture) {
		for _, ek := range []string{"one", "two"} {
			_, err := f.RecordIssuedAIK(f.ctx, issued(ek, "aik"), 2)
			f.must(err)
		}
		_, err := f.RecordIssuedAIK(f.ctx, issued("three", "aik"), 2)
		f.refused(err, store.ErrFull)
		_, err = f.RecordIssuedAIK(f.ctx, issued("two", "another"), 2)
		f.refused(err, store.ErrFull)
		_, err = f.RecordIssuedAIK(f.ctx, issued("two", "aik"), 2)
		f.must(err)
	}},
}

func issued(ek, aik string) store.IssuedAIK {
	return store.IssuedAIK{
		EK: Hash("ek " + ek), Name: bytesOf("aik "+ek+aik, 34), DeviceID: ID(ek), Certificate: bytesOf("certificate "+ek+aik, 700),
		Issued: Epoch, Expires: Epoch.Add(time.Hour),
	}
}
