package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"gangway/hub/store"
	"gangway/hub/store/sqlstore"
	"gangway/hub/store/storetest"
)

// enrolBound is the largest acceptable ratio: the cost of an enrolment into a fleet, divided by the
// cost of an enrolment into an empty database.
const enrolBound = 1.2

// FleetEnrolment compares the costs of an enrolment into two databases: one has many devices, and
// the other was empty at the beginning of the run. Each enrolment is added and activated, in two
// durable transactions, without cryptography. All values are medians of the rounds.
type FleetEnrolment struct {
	Devices int    `json:"devices"`
	Engine  string `json:"engine"`
	Rounds  int    `json:"rounds"`
	Each    int    `json:"enrolments_per_round"`
	// Empty and Full are the costs of one enrolment.
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

// EnrolmentCost is the cost of one enrolment.
type EnrolmentCost struct {
	Wall   float64 `json:"wall_us"`
	CPU    float64 `json:"cpu_us"`
	Server float64 `json:"server_cpu_us,omitempty"` // the part of CPU that is PostgreSQL's
	// WAL is the number of bytes that PostgreSQL writes to its write-ahead log. After each
	// checkpoint, the first change of a page writes the whole page.
	WAL float64 `json:"wal_bytes,omitempty"`
}

// enrolRounds is the number of rounds. Each round enrols into both databases, in alternating order.
const enrolRounds = 11

// compareWithEmpty compares n enrolments into the fleet with n enrolments into an empty database.
func (f *testFleet) compareWithEmpty(ctx context.Context, n int, engines *engines) (*FleetEnrolment, error) {
	empty, err := openFleet(ctx, 0, engines)
	if err != nil {
		return nil, err
	}
	defer empty.close()
	// Allow for other programs that use the machine: because of them, an enrolment may wait for a
	// long time.
	r, err := compareEnrolments(store.WithWriteTimeout(ctx, time.Minute), empty, f, max(n/enrolRounds, 1))
	return &r, err
}

func compareEnrolments(ctx context.Context, empty, full *testFleet, each int) (FleetEnrolment, error) {
	r := FleetEnrolment{Devices: full.result.Devices, Engine: full.result.Engine, Rounds: enrolRounds, Each: each}
	var cost [2][]EnrolmentCost
	var times, cpus []float64
	fleets := [2]*testFleet{empty, full}
	for _, f := range fleets { // warm up
		if _, err := f.enrol(ctx, min(each, 200)); err != nil {
			return r, err
		}
	}
	for round := range enrolRounds {
		var now [2]EnrolmentCost
		for i := range fleets {
			i = (i + round) % 2
			var err error
			if now[i], err = fleets[i].enrol(ctx, each); err != nil {
				return r, err
			}
			cost[i] = append(cost[i], now[i])
		}
		times, cpus = append(times, now[1].Wall/now[0].Wall), append(cpus, now[1].CPU/now[0].CPU)
	}
	middle := func(list []EnrolmentCost) EnrolmentCost {
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
	r.EachRound, r.EachCPU = cost[1], slices.Clone(cpus)
	r.Empty, r.Full, r.Time, r.CPU = middle(cost[0]), middle(cost[1]), median(times), median(cpus)
	return r, nil
}

// enrol enrols and activates n devices of the fleet's owner, with several calls at the same time.
func (f *testFleet) enrol(ctx context.Context, n int) (EnrolmentCost, error) {
	token, err := benchToken(ctx, f.store)
	if err != nil {
		return EnrolmentCost{}, err
	}
	run := rand.Text()
	list := make([]store.Enrolment, n)
	for i := range list {
		list[i] = storetest.Machine{Name: fmt.Sprint(run, i)}.Enrolment(fleetOwner, token.ID)
	}
	wal := f.wal()
	used, served, begin := cpu(), f.server(), time.Now()
	err = parallel(n, func(i int) error {
		e, err := f.store.BeginEnrolment(ctx, list[i], storetest.Epoch)
		if err != nil {
			return err
		}
		_, err = f.store.Activate(ctx, store.Activation{IDevIDHash: e.IDevIDHash, Nick: fmt.Sprint(run, i), Now: storetest.Epoch, Addr: "192.0.2.1:443"})
		return err
	})
	each := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(n) }
	wall, server := time.Since(begin), f.server()-served
	return EnrolmentCost{Wall: each(wall), CPU: each(cpu() - used + server), Server: each(server), WAL: (f.wal() - wal) / float64(n)}, err
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

// slowEnrolments prints the comparison of each fleet with an empty database. It returns the
// comparisons that exceed enrolBound.
func slowEnrolments(all []FleetResult) (slow []string) {
	for _, f := range all {
		r := f.Enrolment
		if r == nil {
			continue
		}
		fmt.Printf("\n%s, an enrolment with %d devices: %.0f µs of CPU time, %.0f µs of wall time; with an empty database: %.0f µs of CPU time, %.0f µs of wall time; ratio of the CPU times %.2f, of the wall times %.2f (medians of %d rounds with %d enrolments)\n",
			r.Engine, r.Devices, r.Full.CPU, r.Full.Wall, r.Empty.CPU, r.Empty.Wall, r.CPU, r.Time, r.Rounds, r.Each)
		if r.Full.WAL > 0 {
			fmt.Printf("PostgreSQL writes %.0f bytes to its write-ahead log for each enrolment; with an empty database: %.0f bytes\n", r.Full.WAL, r.Empty.WAL)
		}
		if r.Time > enrolBound || r.CPU > enrolBound {
			slow = append(slow, fmt.Sprintf("an enrolment with %d devices in the database: %.1f times the cost with an empty database", r.Devices, max(r.Time, r.CPU)))
		}
	}
	return slow
}
