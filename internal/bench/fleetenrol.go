package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"gangway/hub/onboard"
	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/hub/store/postgres"
	"gangway/hub/store/sqlite"
	"gangway/hub/store/sqlstore"
	"gangway/hub/store/storetest"
	"gangway/internal/fleet"
	"gangway/wire"
)

// enrolBound is the largest acceptable ratio: the cost of an onboarding into a fleet, divided by
// the cost of an onboarding into an empty database.
const enrolBound = 1.2

// FleetEnrolment compares the costs of onboardings into two databases: one has many devices, and
// the other was empty at the beginning of the comparison. All commits are durable.
type FleetEnrolment struct {
	Devices int    `json:"devices"`
	Engine  string `json:"engine"`
	Rounds  int    `json:"rounds"`
	Each    int    `json:"onboardings_per_round"`
	// OverTLS compares onboardings as devices see them. Each of the two hubs is a process of its
	// own, and each device opens two TLS connections. The wall times include the work of the
	// devices, which share the machine with the hub. enrolBound is the bound for this comparison.
	OverTLS Comparison `json:"over_tls"`
	// Whole compares the hub's whole work for an onboarding, except TLS and HTTP: it judges the
	// request, issues and stores the certificates, encrypts them to the TPM, and activates the
	// device.
	Whole Comparison `json:"without_tls"`
	// Store compares only the two transactions of an onboarding, without cryptography.
	Store Comparison `json:"store_only"`
}

// Comparison has the costs of one onboarding in the two databases. All values are medians of the
// rounds.
type Comparison struct {
	Empty EnrolmentCost `json:"empty"`
	Full  EnrolmentCost `json:"full"`
	// EachRound has the costs in each round, in the database with many devices.
	EachRound []EnrolmentCost `json:"full_rounds"`
	// EachCPU has the ratio of the CPU times in each round (see CPU).
	EachCPU []float64 `json:"cpu_ratios"`
	// Time and CPU compare Full with Empty: in each round, the cost with many devices is divided by
	// the cost in the other database, and the field is the median of these ratios. Time compares
	// the wall times. CPU compares the CPU times of the hub's process and PostgreSQL's processes
	// together.
	Time float64 `json:"time_ratio"`
	CPU  float64 `json:"cpu_ratio"`
}

// EnrolmentCost is the cost of one onboarding.
type EnrolmentCost struct {
	Wall   float64 `json:"wall_us"`
	CPU    float64 `json:"cpu_us"`
	Server float64 `json:"server_cpu_us,omitempty"` // the part of CPU that is PostgreSQL's
	// WAL is the number of bytes that PostgreSQL writes to its write-ahead log. After each
	// checkpoint, the first change of a page writes the whole page.
	WAL float64 `json:"wal_bytes,omitempty"`
}

// enrolRounds is the number of rounds. Each round onboards the same devices into both databases, in
// alternating order.
const enrolRounds = 11

// compareWithEmpty compares n onboardings into the fleet with n onboardings into an empty database.
func (f *testFleet) compareWithEmpty(ctx context.Context, n int, engines *engines) (*FleetEnrolment, error) {
	// Allow for other programs that use the machine: because of them, an enrolment may wait for a
	// long time.
	ctx = store.WithWriteTimeout(ctx, time.Minute)
	r := &FleetEnrolment{Devices: f.result.Devices, Engine: f.result.Engine, Rounds: enrolRounds, Each: max(n/enrolRounds, 1)}
	for _, one := range []struct {
		result *Comparison
		served bool
		of     func(context.Context, *site, int) (onboardAll, error)
	}{{&r.Whole, false, wholeOnboardings}, {&r.Store, false, storeOnly}, {&r.OverTLS, true, overTLS}} {
		var err error
		if *one.result, err = f.compare(ctx, engines, r.Each, one.served, one.of); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// compare compares onboardings into the fleet with onboardings into an empty database, in rounds of
// `each` onboardings. If `served` is true, each of the two hubs is a process of its own.
func (f *testFleet) compare(ctx context.Context, engines *engines, each int, served bool, of func(context.Context, *site, int) (onboardAll, error)) (c Comparison, err error) {
	empty, err := openFleet(ctx, 0, engines)
	if err != nil {
		return c, err
	}
	defer empty.close()
	s, err := newSite(ctx)
	if err != nil {
		return c, err
	}
	defer s.close()
	var hubs [2]*fleetHub
	for i, db := range []*testFleet{empty, f} {
		if hubs[i], err = s.hub(ctx, db, f.result.Devices); err != nil {
			return c, err
		}
		if served {
			if hubs[i].process, err = startChild("-serve", s.dir, "-database", db.database, "-fleet", fmt.Sprint(f.result.Devices)); err != nil {
				return c, err
			}
			defer hubs[i].process.kill()
		}
	}
	var cost [2][]EnrolmentCost
	var times, cpus []float64
	for round := -1; round < enrolRounds; round++ { // round -1 warms up
		onboard, err := of(ctx, s, each)
		if err != nil {
			return c, err
		}
		var now [2]EnrolmentCost
		for i := range hubs {
			i = (i + round + 2) % 2
			if now[i], err = onboard(hubs[i]); err != nil {
				return c, err
			}
		}
		if round < 0 {
			continue
		}
		for i := range now {
			cost[i] = append(cost[i], now[i])
		}
		times, cpus = append(times, now[1].Wall/now[0].Wall), append(cpus, now[1].CPU/now[0].CPU)
	}
	c.EachRound, c.EachCPU = cost[1], slices.Clone(cpus)
	c.Empty, c.Full, c.Time, c.CPU = middle(cost[0]), middle(cost[1]), median(times), median(cpus)
	if served {
		err = errors.Join(hubs[0].process.stop(), hubs[1].process.stop())
	}
	return c, err
}

// The function `middle` returns the median of each kind of cost.
func middle(list []EnrolmentCost) EnrolmentCost {
	of := func(value func(EnrolmentCost) float64) float64 {
		var values []float64
		for _, c := range list {
			values = append(values, value(c))
		}
		return median(values)
	}
	return EnrolmentCost{
		Wall: of(func(c EnrolmentCost) float64 { return c.Wall }), CPU: of(func(c EnrolmentCost) float64 { return c.CPU }),
		Server: of(func(c EnrolmentCost) float64 { return c.Server }), WAL: of(func(c EnrolmentCost) float64 { return c.WAL }),
	}
}

// site is what the hubs of both databases have in common: their keys and a join token of the
// fleet's owner. So both hubs can onboard the same devices, with the same requests.
type site struct {
	dir   string
	maker *fleet.Maker
	ca    *pki.Hub
	row   store.JoinToken
	token *wire.TokenFile
}

func newSite(ctx context.Context) (s *site, err error) {
	s = new(site)
	if s.dir, err = os.MkdirTemp("", "gangway-bench"); err != nil {
		return nil, err
	}
	if s.maker, err = fleet.NewMaker("bench", fleet.MakerOptions{}); err != nil {
		return nil, err
	}
	if s.ca, err = pki.Open(filepath.Join(s.dir, "pki"), pki.Options{Name: "Bench"}); err != nil {
		return nil, err
	}
	if s.row, s.token, err = newTokenOf(fleetOwner, s.ca); err != nil {
		return nil, err
	}
	return s, writeMaker(s.dir, s.maker)
}

func (s *site) close() { os.RemoveAll(s.dir) }

// fleetHub is a hub with a database.
type fleetHub struct {
	*testFleet
	among   among
	service *onboard.Service
	process *child // serves the same database over TLS; nil: the hub is only in this process
}

// The method `hub` makes a hub with the database `db`. `n` is the number of devices of the fleet.
func (s *site) hub(ctx context.Context, db *testFleet, n int) (*fleetHub, error) {
	if _, err := benchToken(ctx, db.store); err != nil { // makes the fleet's owner
		return nil, err
	}
	if err := db.store.CreateJoinToken(ctx, s.row); err != nil {
		return nil, err
	}
	h := &fleetHub{testFleet: db, among: among{db.store, uint64(n)}}
	var err error
	h.service, err = newService(s.maker, s.ca, h.among)
	return h, err
}

// openFleetHub opens the hub of a fleet in a process of its own. The hub's keys are in the folder
// `dir`. `database` is the URL of the database in PostgreSQL, or the path of SQLite's file, and
// `devices` is the number of devices of the fleet.
func openFleetHub(maker *fleet.Maker, dir, database, devices string) (*testHub, error) {
	n, err := strconv.ParseUint(devices, 10, 64)
	if err != nil {
		return nil, err
	}
	h := &testHub{dir: dir}
	var service among
	ctx := context.Background()
	if strings.HasPrefix(database, "postgres:") {
		s, err := postgres.Open(ctx, postgres.Config{URL: database})
		if err != nil {
			return nil, err
		}
		h.store, service = leased{s}, among{s.Store, n}
	} else {
		s, err := sqlite.Open(ctx, database)
		if err != nil {
			return nil, err
		}
		h.store, service = leased{s}, among{s.Store, n}
	}
	if h.ca, err = pki.Open(filepath.Join(dir, "pki"), pki.Options{}); err != nil {
		return nil, err
	}
	h.token = &wire.TokenFile{HubCA: string(h.ca.RootPEM())}
	h.service, err = newService(maker, h.ca, service)
	return h, err
}

// leased is the store of a hub that does no periodic work, because another replica always has the
// lease for it. The periodic work would be part of the costs in the large database only: for
// example, the hub would remove the fleet's events every minute, because they are years old.
type leased struct{ engine }

func (leased) Lease(context.Context, string, string, time.Duration) (store.Fence, error) {
	return store.Fence{}, store.ErrLeased
}

// among is a store that makes new devices similar to the devices of the fleet: it changes their
// nick, model, serial number, and the maker and firmware of their TPM. If new devices had their own
// names, their rows would be next to each other in the indexes, and fewer pages would change than
// in a real fleet.
type among struct {
	*sqlstore.Store
	n uint64 // number of devices of the fleet
}

func (s among) BeginEnrolment(ctx context.Context, e store.Enrolment, now time.Time) (store.Enrolment, error) {
	e.Manufacturer, e.Firmware, e.ProdModel = "IFX", "7.85", "NUC 1"
	e.ProdSerial = fmt.Sprintf("SN-%08d", s.number(e.DeviceID))
	return s.Store.BeginEnrolment(ctx, e, now)
}

func (s among) Activate(ctx context.Context, a store.Activation) (store.Device, error) {
	a.Nick = fmt.Sprintf("forklift-%07d-%07d", s.number(a.Nick), s.number(a.Nick+"-"))
	return s.Store.Activate(ctx, a)
}

// The method `number` returns a number below s.n that depends only on `text`.
func (s among) number(text string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(text))
	return h.Sum64() % s.n
}

// onboardAll onboards the devices of one round into the database of a hub, with several calls at
// the same time, and returns the cost of one onboarding.
type onboardAll func(h *fleetHub) (EnrolmentCost, error)

// wholeOnboardings makes n devices and their requests. Their endorsement keys are on P-256, with
// which the cryptography of an enrolment is the cheapest, so that the store's share is the largest.
func wholeOnboardings(ctx context.Context, s *site, n int) (onboardAll, error) {
	l, err := makeLoad(s.maker, "H-2", n, s.token)
	if err != nil {
		return nil, err
	}
	return func(h *fleetHub) (c EnrolmentCost, err error) {
		replies, acts := make([][]byte, n), make([]activation, n)
		if err := h.add(&c, n, func(i int) (err error) {
			replies[i], err = h.service.Enrol(ctx, l.requests[i], "127.0.0.1")
			return err
		}); err != nil {
			return c, err
		}
		if err := parallel(n, func(i int) (err error) { // work of the devices, which is not measured
			acts[i], err = opened(l.devices[i], l.requests[i], replies[i])
			return err
		}); err != nil {
			return c, err
		}
		return c, h.add(&c, n, func(i int) error { return acts[i].send(ctx, h.service) })
	}, nil
}

// overTLS makes n devices and their requests, as wholeOnboardings does, for hubs that are processes
// of their own.
func overTLS(ctx context.Context, s *site, n int) (onboardAll, error) {
	l, err := makeLoad(s.maker, "H-2", n, s.token)
	if err != nil {
		return nil, err
	}
	return func(h *fleetHub) (c EnrolmentCost, err error) {
		return c, h.add(&c, n, func(i int) error { return l.onboard(ctx, i, h.process) })
	}, nil
}

// storeOnly makes n enrolments that need no cryptography.
func storeOnly(ctx context.Context, s *site, n int) (onboardAll, error) {
	run, list := rand.Text(), make([]store.Enrolment, n)
	for i := range list {
		list[i] = storetest.Machine{Name: fmt.Sprint(run, i)}.Enrolment(fleetOwner, s.row.ID)
		list[i].EKKnown = true
	}
	return func(h *fleetHub) (c EnrolmentCost, err error) {
		return c, h.add(&c, n, func(i int) error {
			e, err := h.among.BeginEnrolment(ctx, list[i], storetest.Epoch)
			if err != nil {
				return err
			}
			_, err = h.among.Activate(ctx, store.Activation{
				IDevIDHash: e.IDevIDHash, Nick: e.DeviceID, Now: storetest.Epoch, Addr: "192.0.2.1:443",
				Marks: []store.ChipMark{{Hash: e.EK, What: "the same serial number"}},
			})
			return err
		})
	}, nil
}

// The method `add` runs one step of n onboardings, with several calls at the same time, and adds
// the costs for one of them to `c`.
func (h *fleetHub) add(c *EnrolmentCost, n int, step func(i int) error) error {
	wal, served := h.wal(), h.server()
	used, wall, err := h.spent(func() error { return parallel(n, step) })
	server := h.server() - served
	c.Wall += micros(wall, n)
	c.CPU += micros(used+server, n)
	c.Server += micros(server, n)
	c.WAL += (h.wal() - wal) / float64(n)
	return err
}

// The method `spent` runs the function `f` and returns the CPU time of the hub's process and the
// wall time that it took.
func (h *fleetHub) spent(f func() error) (used, wall time.Duration, err error) {
	if h.process == nil {
		return spent(f)
	}
	_, wall, err = spent(func() (err error) {
		used, err = h.process.spent(f)
		return err
	})
	return used, wall, err
}

// benchToken returns the join token of the fleet's owner. The first call makes the owner and the
// token.
func benchToken(ctx context.Context, s *sqlstore.Store) (store.JoinToken, error) {
	owner := storetest.Account("bench")
	owner.ID = fleetOwner
	token := storetest.JoinToken(owner.ID, "bench", 0)
	known, err := s.JoinTokens(ctx, owner.ID)
	if err != nil {
		return token, err
	}
	if i := slices.IndexFunc(known, func(t store.JoinToken) bool { return t.ID == token.ID }); i >= 0 {
		return known[i], nil
	}
	if err := s.CreateAccount(ctx, owner); err != nil {
		return token, err
	}
	return token, s.CreateJoinToken(ctx, token)
}

// print prints the comparisons. It returns an error if onboardings over TLS exceed enrolBound.
func (r *FleetEnrolment) print() error {
	fmt.Printf("\n%s, an onboarding with %d devices and with an empty database (medians of %d rounds with %d onboardings)\n", r.Engine, r.Devices, r.Rounds, r.Each)
	for _, c := range []struct {
		what string
		Comparison
	}{{"the hub's whole process, over TLS", r.OverTLS}, {"whole, without TLS", r.Whole}, {"only the store's work", r.Store}} {
		fmt.Printf("%s: %.0f and %.0f µs of CPU time, ratio %.2f; %.0f and %.0f µs of wall time, ratio %.2f\n",
			c.what, c.Full.CPU, c.Empty.CPU, c.CPU, c.Full.Wall, c.Empty.Wall, c.Time)
		if c.Full.WAL > 0 {
			fmt.Printf("%s: PostgreSQL needs %.0f and %.0f µs of the CPU time, and writes %.0f and %.0f bytes to its write-ahead log\n",
				c.what, c.Full.Server, c.Empty.Server, c.Full.WAL, c.Empty.WAL)
		}
	}
	if worst := max(r.OverTLS.Time, r.OverTLS.CPU); worst > enrolBound {
		return fmt.Errorf("an onboarding over TLS with %d devices in the database costs %.2f times as much as with an empty database, more than %.1f times", r.Devices, worst, enrolBound)
	}
	return nil
}
