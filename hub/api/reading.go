package api

import (
	"context"
	"sync"
	"time"

	"gangway/hub/alarm"

	"golang.org/x/sys/unix"
)

const (
	// readingAge is how long GET /metrics uses a reading again, so that any number of scrapes in
	// this time causes only one reading.
	readingAge = 5 * time.Second
	// readingTime bounds one reading.
	readingTime = 4 * time.Second
)

// gauge takes readings, for GET /metrics and for the alarms. A reading has the hub's values at one
// moment. Its cost does not grow with the number of devices, because the database keeps counters of
// the devices.
type gauge struct {
	mu      sync.Mutex                 // locked during a reading, so that concurrent scrapes share the reading
	age     time.Duration              // guarded by mu: how long scrapes use a reading again
	clock   func() (unset, known bool) // guarded by mu: whether a time server sets the kernel's clock
	taken   time.Time                  // guarded by mu, by the process's monotonic clock
	last    *alarm.Reading             // guarded by mu
	history []moment                   // guarded by mu: of the last hour, the oldest first
}

// moment has those numbers of an earlier reading with which the hub compares newer readings.
type moment struct {
	at                time.Time
	quiet             int
	refused, accepted int
	known             bool // the database answered, so quiet is valid
}

// kernelClock asks the kernel about its clock, which in a container is the host's. `unset` is true
// if the clock is not synchronized, and `known` is false if the kernel does not answer.
func kernelClock() (unset, known bool) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t) // without a mode, Adjtimex only reads
	if err != nil {
		return false, false
	}
	return state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0, true
}

// reading returns a new reading or, if `fresh` is false, a reading that is at most gauge.age old.
func (s *Server) reading(ctx context.Context, fresh bool) *alarm.Reading {
	g := &s.gauge
	g.mu.Lock()
	defer g.mu.Unlock()
	if !fresh && g.last != nil && time.Since(g.taken) < g.age {
		return g.last
	}
	ctx, cancel := context.WithTimeout(ctx, readingTime)
	defer cancel()
	r := s.takeReading(ctx)
	g.compare(r, s.metrics)
	g.last, g.taken = r, time.Now()
	return r
}

// takeReading takes a reading without the fields that compare it with earlier readings. If the
// database does not answer, the reading's field Database is false. The caller holds gauge.mu.
func (s *Server) takeReading(ctx context.Context) *alarm.Reading {
	r := &alarm.Reading{Now: s.cfg.Now(), Created: s.cfg.CA.Root().NotBefore, Certificates: s.certificatesNow()}
	if s.space.dir != "" {
		if free, size, err := s.space.usage(s.space.dir); err == nil {
			r.Disk = &alarm.Disk{Free: free, Size: size, Reserve: min(size/20, maxReserve)}
		}
	}
	r.Unset, r.ClockKnown = s.gauge.clock()
	if err := s.readDatabase(ctx, r); err != nil {
		if ctx.Err() == nil {
			s.log.Warn("reading the hub's numbers", "err", err)
		}
		return r
	}
	r.Database = true
	return r
}

func (s *Server) certificatesNow() []alarm.Certificate {
	list := []alarm.Certificate{
		{Name: "root", Expires: s.cfg.CA.Root().NotAfter}, {Name: "attestation-ca", Expires: s.cfg.CA.ACA().NotAfter}, {Name: "device-ca", Expires: s.cfg.CA.DeviceCA().NotAfter},
	}
	if c := s.cfg.CA.TLSCA(); c != nil {
		list = append(list, alarm.Certificate{Name: "tls-ca", Expires: c.NotAfter})
	}
	own := alarm.Certificate{Name: "hub"}
	if c, err := s.certificate(nil); err == nil {
		own.Expires = c.Leaf.NotAfter
	}
	list = append(list, own)
	if s.cfg.PageCertificate != nil {
		list = append(list, alarm.Certificate{Name: "pages", Expires: s.cfg.PageCertificate.Expires()})
	}
	return list
}

// readDatabase fills in the numbers that come from the database.
func (s *Server) readDatabase(ctx context.Context, r *alarm.Reading) error {
	st := s.cfg.Store
	before := s.cfg.Now()
	clock, err := st.Clock(ctx)
	if err != nil {
		return err
	}
	after := s.cfg.Now()
	r.Drift = before.Add(after.Sub(before) / 2).Sub(clock)
	n, err := st.HubCounts(ctx)
	if err != nil {
		return err
	}
	r.Devices, r.Quiet = n.Devices, n.Quiet
	if r.Waiting, err = st.CountUndecided(ctx, alarm.MaxWaiting); err != nil {
		return err
	}
	if r.DatabaseSize, err = st.DatabaseSize(ctx); err != nil {
		return err
	}
	if r.Backup, err = s.lastBackup(ctx); err != nil {
		return err
	}
	if r.BackupFault, err = st.BackupFault(ctx); err != nil {
		return err
	}
	scan, err := s.trustScan(ctx)
	if err != nil {
		return err
	}
	r.Withdrawn = scan.Found
	if r.RootsSoon, err = s.rootsSoon(ctx, r.Now); err != nil {
		return err
	}
	return st.Ping(ctx)
}

// lastBackup returns the time of the newest backup that the hub knows of. Each program that makes a
// backup must record its time with Store.SetLastBackup.
func (s *Server) lastBackup(ctx context.Context) (time.Time, error) {
	return s.cfg.Store.LastBackup(ctx)
}

// rootsSoon counts the trusted roots of TPM makers that expire soon.
func (s *Server) rootsSoon(ctx context.Context, now time.Time) (n int, err error) {
	makers, err := s.cfg.Onboard.Makers(ctx)
	if err != nil {
		return 0, err
	}
	for _, e := range makers.Set.Entries() {
		if left := e.Cert.NotAfter.Sub(now); e.Root && !e.Distrusted && left > 0 && left < alarm.RootSoon {
			n++
		}
	}
	return n, nil
}

// compare fills the fields that compare a reading with earlier readings, and remembers the reading.
// The caller holds g.mu.
func (g *gauge) compare(r *alarm.Reading, m *metrics) {
	is := moment{at: r.Now, quiet: r.Quiet, known: r.Database, refused: count(m.refusedByRules), accepted: count(m.enrolments.WithLabelValues("accepted"))}
	if len(g.history) > 0 && is.at.Before(g.history[len(g.history)-1].at) {
		g.history = nil // the clock was set back
	}
	for len(g.history) > 0 && is.at.Sub(g.history[0].at) > alarm.QuietWindow {
		g.history = g.history[1:]
	}
	oldest := is
	r.QuietBefore = r.Quiet
	for i := len(g.history) - 1; i >= 0; i-- {
		was := g.history[i]
		if was.known {
			r.QuietBefore = min(r.QuietBefore, was.quiet)
		}
		if is.at.Sub(was.at) <= alarm.RefusalWindow {
			oldest = was
		}
	}
	r.Refused, r.Accepted = is.refused-oldest.refused, is.accepted-oldest.accepted
	// However often the hub is scraped, remember only one moment in each half minute.
	if n := len(g.history); n == 0 || is.at.Sub(g.history[n-1].at) >= sweepEvery/2 {
		g.history = append(g.history, is)
	}
}
