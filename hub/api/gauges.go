package api

import (
	"context"
	"sync/atomic"
	"time"

	"gangway/hub/alarm"

	"github.com/prometheus/client_golang/prometheus"
)

// gauges collects the values of GET /metrics that are not counters. No label names a device, an
// owner, or anything else that clients choose.
type gauges struct{ s *Server }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("gangway_"+name, help, labels, nil)
}

var (
	buildInfo      = describe("build_info", "Always 1; the label has the version of the hub.", "version")
	created        = describe("created_timestamp_seconds", "Time of the hub's first start.")
	certificateEnd = describe("certificate_expiry_timestamp_seconds", "Time when a certificate of the hub expires; 0: there is no certificate yet.", "certificate")
	rootsSoon      = describe("maker_roots_expiring", "Trusted root certificates of TPM makers that expire within 90 days.")
	diskFree       = describe("disk_free_bytes", "Free space on the disk of the data folder.")
	diskSize       = describe("disk_size_bytes", "Size of the disk of the data folder.")
	diskReserve    = describe("disk_reserve_bytes", "Free space below which the hub refuses uploads.")
	databaseUp     = describe("database_up", "1 if the database can be read and written.")
	databaseSize   = describe("database_size_bytes", "Size of the database.")
	lastBackup     = describe("last_backup_timestamp_seconds", "Time of the newest recorded backup; 0: no backup was recorded.")
	backupFault    = describe("backup_damaged", "1 if the newest check of a backup found that the backup cannot be restored.")
	clockSet       = describe("clock_synchronized", "1 if a time server sets the clock of the hub's machine.")
	clockDrift     = describe("clock_drift_seconds", "How far the hub's clock is ahead of the database's clock.")
	deviceCount    = describe("devices", "Devices of all owners.")
	quietCount     = describe("devices_quiet", "Quiet devices of all owners.")
	waitingCount   = describe("devices_waiting", "Devices of all owners that wait for their owner's decision; at most 10,000 are counted.")
	withdrawn      = describe("devices_trust_withdrawn", "Devices whose TPM makers' certificates the hub no longer trusts.")
	runningCount   = describe("requests_running", "Requests that are running, not counting those that the hub always admits.")
	capacity       = describe("requests_capacity", "Requests that may run at the same time.")
	signInsWaiting = describe("sign_ins_waiting", "Sign-ins that wait for the check of their password.")
	writesWaiting  = describe("writes_waiting", "Writes to the database that wait for their turn.")
	newsAge        = describe("replica_heard_timestamp_seconds", "Time when this replica last read the changes of the other replicas.")
	workAge        = describe("periodic_work_timestamp_seconds", "Time when this hub last did the periodic work. If the hub has not done the work yet: the time of the hub's start.")
)

// Describe implements prometheus.Collector.
func (g gauges) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{buildInfo, created, certificateEnd, rootsSoon, diskFree, diskSize, diskReserve, databaseUp, databaseSize, lastBackup, backupFault, clockSet,
		clockDrift, deviceCount, quietCount, waitingCount, withdrawn, runningCount, capacity, signInsWaiting, writesWaiting, newsAge, workAge} {
		c <- d
	}
}

// Collect implements prometheus.Collector. If the database does not answer, the numbers from the
// database are absent.
func (g gauges) Collect(c chan<- prometheus.Metric) {
	s := g.s
	r := s.reading(context.Background(), false)
	put := func(d *prometheus.Desc, v float64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	put(buildInfo, 1, s.cfg.Version)
	put(created, seconds(r.Created))
	for _, one := range r.Certificates {
		put(certificateEnd, seconds(one.Expires), one.Name)
	}
	if d := r.Disk; d != nil {
		put(diskFree, float64(d.Free))
		put(diskSize, float64(d.Size))
		put(diskReserve, float64(d.Reserve))
	}
	if r.ClockKnown {
		put(clockSet, oneIf(!r.Unset))
	}
	put(databaseUp, oneIf(r.Database))
	if r.Database {
		putDatabase(r, put)
	}
	put(runningCount, float64(s.overload.running.Load()))
	put(capacity, float64(s.overload.capacity))
	put(signInsWaiting, float64(s.passwords.queue.waitingNow()))
	put(writesWaiting, float64(s.cfg.Store.WritesWaiting()))
	if s.cfg.Replicas {
		put(newsAge, seconds(s.heard.time(s.started)))
	}
	put(workAge, seconds(s.worked.time(s.started)))
}

func putDatabase(r *alarm.Reading, put func(*prometheus.Desc, float64, ...string)) {
	put(databaseSize, float64(r.DatabaseSize))
	put(lastBackup, seconds(r.Backup))
	put(backupFault, oneIf(r.BackupFault != ""))
	put(clockDrift, r.Drift.Seconds())
	put(deviceCount, float64(r.Devices))
	put(quietCount, float64(r.Quiet))
	put(waitingCount, float64(r.Waiting))
	put(withdrawn, float64(r.Withdrawn))
	put(rootsSoon, float64(r.RootsSoon))
}

// seconds returns a time in seconds since 1970, and 0 for the zero time.
func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// instant is a time that goroutines may read and write concurrently. The zero value means that no
// time was set.
type instant struct{ nanoseconds atomic.Int64 }

func (i *instant) set(t time.Time) { i.nanoseconds.Store(t.UnixNano()) }

// time returns the time, or `otherwise` if the method `set` was never called.
func (i *instant) time(otherwise time.Time) time.Time {
	if n := i.nanoseconds.Load(); n != 0 {
		return time.Unix(0, n)
	}
	return otherwise
}
