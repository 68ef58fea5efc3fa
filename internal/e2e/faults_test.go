package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"gangway/hub/store/postgres"
	"gangway/hub/store/postgres/pgtest"
	"gangway/hub/store/sqlite"
)

// faultDevices returns how many devices onboard while faults happen, and how many times each fault
// happens. `make faults` sets GANGWAY_FAULTS to a larger number of devices, for which each fault
// happens several times.
func faultDevices(t *testing.T) (devices, rounds int) {
	t.Helper()
	needFullRun(t)
	text := os.Getenv("GANGWAY_FAULTS")
	if text == "" {
		return 60, 1
	}
	devices, err := strconv.Atoi(text)
	if err != nil || devices < 1 {
		t.Fatalf("GANGWAY_FAULTS is %q, not a number of devices", text)
	}
	return devices, max(1, devices/250)
}

// fault breaks a part of the site, such as a replica or the database, and repairs it again, while
// devices onboard and report.
type fault struct {
	name string
	do   func()
	// If `limit` is not 0, the test fails if the fault leaves all devices without an answer for
	// longer than `limit`.
	limit time.Duration
}

// suffer lets the faults happen one after the other while devices onboard, and prints the longest
// time in which no device got an answer. At the end all devices are active. If GANGWAY_FAULT is
// set, only the faults whose names contain its value happen.
func (s *site) suffer(f *faultFleet, rounds int, faults ...fault) {
	s.t.Helper()
	if only := os.Getenv("GANGWAY_FAULT"); only != "" {
		faults = slices.DeleteFunc(faults, func(f fault) bool { return !strings.Contains(f.name, only) })
	}
	rest := f.devices
	gaps := make([]time.Duration, len(faults)) // the longest of all rounds
	for round := range rounds {
		for i, fault := range faults {
			share := len(rest) / ((rounds-round)*len(faults) - i)
			f.release(rest[:share], 3*time.Second)
			rest = rest[share:]
			time.Sleep(time.Second) // some devices onboard before the fault
			f.gap()
			begun := time.Now()
			fault.do()
			took := time.Since(begun)
			s.recovered(f, fault.name)
			longest, waited := f.gap()
			s.t.Logf("%-50s %5.1f s; no answer to any device for %5.2f s, to one device for %5.2f s", fault.name, took.Seconds(), longest.Seconds(), waited.Seconds())
			gaps[i] = max(gaps[i], longest)
			if fault.limit != 0 && longest > fault.limit {
				s.t.Errorf("%s: want an answer within %s", fault.name, fault.limit)
			}
			if s.t.Failed() {
				s.t.Fatal(s.logs())
			}
		}
	}
	for deadline := time.Now().Add(2 * time.Minute); f.active.Load() < int64(len(f.devices)); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) || s.t.Failed() {
			s.t.Fatalf("%d of %d devices are active: %s", f.active.Load(), len(f.devices), s.logs())
		}
	}
	f.stop()
	f.running.Wait()
	s.panics()
	s.t.Logf("%d devices, %d reports; the longest time without an answer to any device is %.2f s", f.active.Load(), f.reports.Load(), slices.Max(gaps).Seconds())
	s.t.Logf("reports that failed and were repeated: %v", f.failed)
	for i, fault := range faults {
		s.t.Logf("  %5.2f s: %s", gaps[i].Seconds(), fault.name)
	}
}

// The method `recovered` waits until the hub has answered 20 more reports of the devices.
func (s *site) recovered(f *faultFleet, after string) {
	s.t.Helper()
	enough := f.reports.Load() + 20
	for deadline := time.Now().Add(time.Minute); f.reports.Load() < enough; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) || s.t.Failed() {
			s.t.Fatalf("%s: the devices get no more answers: %s", after, s.logs())
		}
	}
}

// databases is a PostgreSQL server with a synchronous standby, each on a node of its own.
type databases struct {
	*site
	nodes            [2]*node
	primary, standby *pgtest.Server
	at               int    // number of the primary's node
	disk             string // folder of the small disk of each node
}

func (s *site) newDatabases() *databases {
	return &databases{site: s, nodes: [2]*node{newNode(s.t, 21), newNode(s.t, 22)}}
}

func (d *databases) place(i int) pgtest.Place {
	return pgtest.Place{Addr: d.nodes[i].addr, Network: "10.73.0.0/24", Do: d.nodes[i].do}
}

// start starts the server and its standby with an empty database.
func (d *databases) start() {
	d.t.Helper()
	var err error
	if d.primary, err = pgtest.StartAt(d.place(0)); errors.Is(err, pgtest.ErrMissing) {
		d.t.Skip(err)
	}
	d.check(err)
	d.t.Cleanup(func() { d.primary.Stop(); d.standby.Stop() })
	small := d.smallDisks()
	for _, sql := range []string{"CREATE TABLESPACE small LOCATION '" + small + "'", "CREATE DATABASE gangway TABLESPACE small"} {
		_, err = d.primary.Query(d.t.Context(), "postgres", sql)
		d.check(err)
	}
	d.copy()
}

// smallDisks gives each node a small disk, and returns the path of the folder for the database on
// each disk. The write-ahead log is elsewhere.
func (d *databases) smallDisks() string {
	d.t.Helper()
	var err error
	d.disk, err = os.MkdirTemp("", "gangway-disk-")
	d.check(err)
	d.t.Cleanup(func() { os.RemoveAll(d.disk) })
	uid, gid := d.primary.User()
	for _, n := range d.nodes {
		d.check(n.smallDisk(d.disk, 128<<20, uid, gid))
		d.check(n.do(d.emptyDisk))
	}
	return filepath.Join(d.disk, "space")
}

// emptyDisk removes the files that an earlier server left on the small disk of the current node.
func (d *databases) emptyDisk() error {
	space := filepath.Join(d.disk, "space")
	uid, gid := d.primary.User()
	return errors.Join(os.RemoveAll(space), os.Mkdir(space, 0o700), os.Chown(space, uid, gid))
}

// fill fills the primary's disk, until the returned function is called.
func (d *databases) fill() (empty func()) {
	d.t.Helper()
	n := d.nodes[d.at]
	file := filepath.Join(d.disk, "filler")
	d.check(n.do(func() error { return fillDisk(file) }))
	return func() { d.check(n.do(func() error { return os.Remove(file) })) }
}

// fillDisk writes a file until its disk is full.
func fillDisk(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 4096)
	for {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// copy makes a new standby on the node where no server runs, and makes commits wait for it.
func (d *databases) copy() {
	d.t.Helper()
	d.check(d.nodes[1-d.at].do(d.emptyDisk))
	var err error
	d.standby, err = pgtest.StartStandby(d.primary, d.place(1-d.at))
	d.check(err)
	ctx, cancel := context.WithTimeout(d.t.Context(), 30*time.Second)
	defer cancel()
	d.check(d.primary.Follow(ctx))
	d.database = d.primary.URL("gangway")
}

// promote makes the standby the primary. The old primary must not be reachable.
func (d *databases) promote() {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), 30*time.Second)
	defer cancel()
	d.check(d.standby.Promote(ctx))
	d.at = 1 - d.at
	d.primary, d.standby = d.standby, d.primary
}

// url returns the value of the replicas' flag --database.
func (d *databases) url() string {
	return fmt.Sprintf("postgres://gangway@%s:%d,%s:%[2]d/gangway?sslmode=disable&target_session_attrs=read-write", d.nodes[0].addr, d.primary.Port, d.nodes[1].addr)
}

// Three replicas share a PostgreSQL server with a synchronous standby. While devices onboard and
// report, replicas and servers die, networks lose packets, and a disk fills up. At the end each
// machine is one active device, each use of the join token is counted, no acknowledged report is
// lost, and `gangway fsck` finds nothing.
func TestFaultsLoseNothing(t *testing.T) {
	devices, rounds := faultDevices(t)
	t.Parallel()
	s := newSite(t, 3)
	d := s.newDatabases()
	plugIn(t, s.balancer, s.replicas[0].node, s.replicas[1].node, s.replicas[2].node, d.nodes[0], d.nodes[1])
	d.start()
	s.database = d.primary.URL("gangway")
	s.serve(d.url(), devices)
	f := newFaultFleet(t, s, devices)
	s.suffer(f, rounds,
		fault{name: "kill -9 of replicas, 6 times", do: func() {
			for range 6 {
				s.killOne()
			}
		}},
		fault{name: "immediate stop of PostgreSQL, twice", do: func() {
			for range 2 {
				d.primary.Kill()
				time.Sleep(200 * time.Millisecond)
				d.check(d.primary.Run())
				time.Sleep(500 * time.Millisecond)
			}
		}},
		fault{name: "primary killed, standby promoted and copied", do: func() {
			d.primary.Stop()
			d.promote()
			d.copy()
		}},
		fault{name: "a replica and the databases lose each other for 4 s", do: func() {
			heal := s.replicas[0].cut(d.nodes[:]...)
			time.Sleep(4 * time.Second)
			heal()
		}},
		fault{name: "a replica is cut off for 4 s", do: func() {
			heal := s.replicas[1].cut(s.balancer, d.nodes[0], d.nodes[1])
			time.Sleep(4 * time.Second)
			heal()
		}},
		fault{name: "primary and standby lose each other for 2 s", do: func() {
			heal := d.nodes[0].cut(d.nodes[1])
			time.Sleep(2 * time.Second)
			heal()
		}},
		fault{name: "primary cut off, standby promoted and copied", do: func() {
			heal := d.nodes[d.at].cut(d.nodes[1-d.at], s.balancer, s.replicas[0].node, s.replicas[1].node, s.replicas[2].node)
			d.promote()
			s.recovered(f, "promotion")
			d.standby.Stop() // as the operator of a cluster does before the old primary gets its network back
			heal()
			d.copy()
		}, limit: 25 * time.Second},
		fault{name: "full disk of the database for 2 s", do: func() {
			empty := d.fill()
			time.Sleep(2 * time.Second)
			empty()
		}},
	)
	db, err := postgres.Open(t.Context(), postgres.Config{URL: s.database})
	s.check(err)
	defer db.Close()
	s.checkStore(t.Context(), db.Store, f)
	s.local("", "fsck")
}

// One hub keeps its database in a file. While devices onboard and report, the hub dies, loses its
// network, and has a full disk. At the end, the same must be true as in TestFaultsLoseNothing.
func TestFaultsOfOneHubLoseNothing(t *testing.T) {
	devices, rounds := faultDevices(t)
	t.Parallel()
	s := newSite(t, 1)
	r := s.replicas[0]
	plugIn(t, s.balancer, r.node)
	s.check(r.smallDisk(r.dir, 256<<20, 0, 0))
	s.serve("", devices)
	f := newFaultFleet(t, s, devices)
	filler := filepath.Join(r.dir, "filler")
	fill := func() { s.check(r.do(func() error { return fillDisk(filler) })) }
	empty := func() { s.check(r.do(func() error { return os.Remove(filler) })) }
	s.suffer(f, rounds,
		fault{name: "kill -9 of the hub, 4 times", do: func() {
			for range 4 {
				s.killOne()
			}
		}},
		fault{name: "the hub is cut off for 3 s", do: func() {
			heal := r.cut(s.balancer)
			time.Sleep(3 * time.Second)
			heal()
		}},
		fault{name: "full disk for 2 s", do: func() {
			fill()
			time.Sleep(2 * time.Second)
			empty()
		}},
		fault{name: "kill -9 while the disk is full", do: func() {
			fill()
			r.kill()
			time.Sleep(2 * time.Second)
			empty()
		}},
	)
	r.end()
	s.local("", "fsck")
	// Only the replica's node sees the small disk, so the test opens a copy of the database.
	kept := filepath.Join(s.dir, "kept")
	cmd := exec.Command("cp", "-a", r.dir, kept)
	s.output("", cmd, func() error { return r.start(cmd) })
	db, err := sqlite.Open(t.Context(), filepath.Join(kept, "gangway.db"))
	s.check(err)
	defer db.Close()
	s.checkStore(t.Context(), db.Store, f)
}
