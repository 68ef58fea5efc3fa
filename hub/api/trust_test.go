package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gangway/hub/evidence"
	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/hub/trust"
	"gangway/internal/brief"
	"gangway/internal/fleet"
)

// setTrust stores the operator's decision `kind` about certificates, such as to trust or to
// distrust them.
func setTrust(t testing.TB, s store.TrustStore, kind store.TrustKind, certs ...*x509.Certificate) {
	t.Helper()
	var change store.TrustChange
	for _, c := range certs {
		change.Put = append(change.Put, store.TrustedCertificate{Fingerprint: sha256.Sum256(c.Raw), DER: c.Raw, Kind: kind, Source: "test"})
	}
	if err := s.ChangeTrust(t.Context(), change); err != nil {
		t.Fatal(err)
	}
}

// The function `enrols` passes a device's enrolment request to a service. It returns the code of
// the refusal, or "" if the service accepts the request.
func enrols(t testing.TB, s *onboard.Service, sc *scene, d *fleet.Device) string {
	t.Helper()
	body := must(d.Request(sc.tok, fleet.RequestChange{}))(t)
	_, err := s.Enrol(t.Context(), body, "192.0.2.1:1")
	var r *evidence.Refusal
	switch {
	case err == nil:
		return ""
	case errors.As(err, &r):
		return r.Code
	}
	t.Fatal(err)
	return ""
}

// If the operator removes a CA, every replica of the hub rejects the CA from the next request on,
// even if the replica has cached the CA as verified.
func TestRemovedMakerIsObeyedAtOnceByEveryReplica(t *testing.T) {
	t.Parallel()
	s := newSceneOnDisk(t)
	replica := s.Replica(t)
	evil := must(unknownMaker())(t)
	stranger := must(fleet.New(evil, "H-2"))(t)
	stranger.Chain = [][]byte{evil.Intermediate.Raw}
	both := func(when, wantGood, wantEvil string) {
		t.Helper()
		for name, service := range map[string]*onboard.Service{"first": s.Service, "replica": replica} {
			if got := enrols(t, service, s, s.device(t)); got != wantGood {
				t.Errorf("%s, %s: the good maker's device got %q, want %q", when, name, got, wantGood)
			}
			if got := enrols(t, service, s, stranger); got != wantEvil {
				t.Errorf("%s, %s: the other maker's device got %q, want %q", when, name, got, wantEvil)
			}
		}
	}
	s.Policy(t, s.Owner.ID, "version: 1\nunknown_maker: refuse\n")
	both("at first", "", "ek-chain-untrusted")
	setTrust(t, s.Store, store.TrustedRoot, evil.Root)
	both("after an import", "", "")
	setTrust(t, replica.Store.(store.TrustStore), store.Distrusted, evil.Intermediate)
	both("after a link of it was distrusted", "", "ek-chain-distrusted")
	setTrust(t, replica.Store.(store.TrustStore), store.TrustedLink, evil.Intermediate)
	both("after that was trusted again", "", "")
	setTrust(t, s.Store, store.Distrusted, s.maker.Root)
	both("after the first maker was distrusted", "ek-chain-distrusted", "")
	if err := s.Store.ChangeTrust(t.Context(), store.TrustChange{Remove: []store.Hash{sha256.Sum256(evil.Root.Raw), sha256.Sum256(s.maker.Root.Raw)}}); err != nil {
		t.Fatal(err)
	}
	both("after all was taken back", "", "ek-chain-untrusted")
}

// If one of the operator's entries in the trust store cannot be read, the hub accepts no device.
func TestUnreadableTrustLetsNobodyIn(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	if got := enrols(t, s.Service, s, s.device(t)); got != "" {
		t.Fatal(got)
	}
	err := s.Store.ChangeTrust(t.Context(), store.TrustChange{Put: []store.TrustedCertificate{{Fingerprint: store.Hash{1}, DER: []byte("?"), Kind: store.Distrusted}}})
	if err != nil {
		t.Fatal(err)
	}
	body := must(s.device(t).Request(s.tok, fleet.RequestChange{}))(t)
	a := must(s.client.Post(t.Context(), "/onboard", bytes.NewReader(body)))(t)
	if a.Status != 500 {
		t.Errorf("answer %d: %s", a.Status, a.Body)
	}
}

// crowd is a store that returns the trusted certificates only when `size` requests have seen the
// new version of the trust store.
type crowd struct {
	onboard.Store
	size  int32
	asked atomic.Int32 // calls of ConfigVersion and JoinTokenForEK
	reads atomic.Int32 // calls of TrustedCertificates
}

func (c *crowd) ConfigVersion(ctx context.Context) (int64, error) {
	c.asked.Add(1)
	return c.Store.ConfigVersion(ctx)
}

func (c *crowd) JoinTokenForEK(ctx context.Context, id string, ek store.Hash, now time.Time) (store.TokenForEK, error) {
	c.asked.Add(1)
	return c.Store.JoinTokenForEK(ctx, id, ek, now)
}

func (c *crowd) TrustedCertificates(ctx context.Context) ([]store.TrustedCertificate, error) {
	c.reads.Add(1)
	for range 10_000 {
		if c.asked.Load() > c.size { // every request has asked once, and the request that is reading has asked again
			break
		}
		time.Sleep(time.Millisecond)
	}
	return c.Store.TrustedCertificates(ctx)
}

// After a change of the trust store, the hub reads the certificates only once, even if many
// requests run concurrently.
func TestTrustIsMadeOnceForAllRequests(t *testing.T) {
	t.Parallel()
	s := newSceneOnDisk(t)
	const requests = 16
	c := &crowd{Store: s.Store, size: requests}
	service := &onboard.Service{Store: c, CA: s.CA, Log: s.Service.Log, Now: s.Now, PublicURL: s.URL}
	service.SetTrust(trust.NewSet(trust.FromX509("test", s.maker.Roots(), s.maker.Intermediates())...))
	body := must(s.victim.Request(s.tok, fleet.RequestChange{}))(t)
	for change := range int32(3) {
		setTrust(t, s.Store, store.TrustedLink, s.maker.Intermediate)
		c.asked.Store(0)
		var wg sync.WaitGroup
		for range requests {
			wg.Go(func() {
				if _, err := service.Enrol(t.Context(), body, "192.0.2.1:1"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := c.reads.Load(); n != change+1 {
			t.Errorf("%d reads after %d changes", n, change+1)
		}
	}
}

func BenchmarkTrustUnchanged(b *testing.B) {
	s := newScene(b)
	for b.Loop() {
		if _, err := s.Store.ConfigVersion(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// A TPM of a distrusted maker is refused without asking the owner.
func TestDistrustedMakersTPMIsNeverAQuestion(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	setTrust(t, s.Store, store.Distrusted, s.maker.Root)
	refused(t, s.post(t, s.request(t, s.victim)), 403, "ek-chain-distrusted")
	if list := want[[]map[string]any](s.person(t, "ada"), "GET", "/devices/waiting", nil, 200); len(list) != 0 {
		t.Errorf("it waits for the owner: %s", brief.Of(list))
	}
}
