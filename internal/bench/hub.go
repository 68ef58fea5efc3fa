package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"gangway/hub/api"
	"gangway/hub/onboard"
	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/hub/store/sqlite"
	"gangway/hub/trust"
	"gangway/internal/fleet"
	"gangway/wire"
)

// engine is a database of a hub.
type engine interface {
	api.Store
	Close() error
}

// testHub is a hub whose database is on a real disk, with one owner and one join token.
type testHub struct {
	dir       string
	store     engine
	ca        *pki.Hub
	service   *onboard.Service
	token     *wire.TokenFile
	perCommit func() float64 // returns the mean number of operations in a commit
}

// openHub makes a hub with SQLite in the folder `dir`. If `dir` is empty, it makes a temporary
// folder below build/, because commits must go to a disk and /tmp is often in memory.
func openHub(maker *fleet.Maker, dir string) (*testHub, error) {
	if dir == "" {
		if err := os.MkdirAll("build", 0o755); err != nil {
			return nil, err
		}
		var err error
		if dir, err = os.MkdirTemp("build", "bench-"); err != nil {
			return nil, err
		}
	}
	s, err := sqlite.Open(context.Background(), filepath.Join(dir, "gangway.db"))
	if err != nil {
		return nil, err
	}
	return openHubOn(maker, dir, s, func() float64 { return float64(s.Stats().Ops) / float64(s.Stats().Commits) })
}

// openHubOn makes a hub with its own keys in the folder `dir`.
func openHubOn(maker *fleet.Maker, dir string, s engine, perCommit func() float64) (*testHub, error) {
	h := &testHub{dir: dir, store: s, perCommit: perCommit}
	var err error
	if h.ca, err = pki.Open(filepath.Join(dir, "pki"), pki.Options{Name: "Bench"}); err != nil {
		return nil, err
	}
	if h.service, err = newService(maker, h.ca, h.store); err != nil {
		return nil, err
	}
	h.token, err = newToken(h.store, h.ca)
	return h, err
}

// serviceStore is the part of the store that newService needs.
type serviceStore interface {
	onboard.Store
	PutPolicy(ctx context.Context, p store.Policy) error
}

// newService makes a service that onboards the maker's devices.
func newService(maker *fleet.Maker, ca *pki.Hub, s serviceStore) (*onboard.Service, error) {
	service := &onboard.Service{Store: s, CA: ca, Log: slog.New(slog.DiscardHandler), Now: time.Now, PublicURL: "https://127.0.0.1"}
	service.SetTrust(trust.NewSet(trust.FromX509("bench", maker.Roots(), maker.Intermediates())...))
	return service, s.PutPolicy(context.Background(), store.Policy{Owner: store.HubWide, Text: labPolicy, Updated: time.Now()})
}

// labPolicy accepts the emulated TPMs, whose maker is FAKE. The hub evaluates two other rules
// before the rule for this maker.
const labPolicy = `version: 1
software_tpms: [FAKE]
rules:
  - {maker: IFX, firmware_below: "7.85", then: refuse, reason: "known weaknesses"}
  - {maker: NTC, model: "NPCT6*", then: ask}
  - {maker: FAKE, then: accept}
  - {then: ask}
`

func newToken(s engine, ca *pki.Hub) (*wire.TokenFile, error) {
	owner := store.Account{ID: wire.NewID(), Nick: "owner" + wire.NewID()[:6], Created: time.Now()}
	if err := s.CreateAccount(context.Background(), owner); err != nil {
		return nil, err
	}
	t, file, err := newTokenOf(owner.ID, ca)
	if err != nil {
		return nil, err
	}
	return file, s.CreateJoinToken(context.Background(), t)
}

// newTokenOf makes a join token and its token file. The token is not in any database yet.
func newTokenOf(owner string, ca *pki.Hub) (store.JoinToken, *wire.TokenFile, error) {
	return onboard.NewToken(ca, "https://127.0.0.1", store.JoinToken{Owner: owner, Created: time.Now(), Expires: time.Now().Add(24 * time.Hour)})
}

func (h *testHub) close() {
	h.store.Close()
	os.RemoveAll(h.dir)
}
