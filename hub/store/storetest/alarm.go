package storetest

import (
	"strings"
	"time"

	"gangway/hub/store"
)

var alarmTests = []test{
	{"BeginAndEndOnce", func(f *fixture) {
		set := func(names string, at time.Time) int {
			f.Helper()
			var list []store.Alarm
			for name := range strings.FieldsSeq(names) {
				list = append(list, store.Alarm{Name: name, Since: at, Fact: name + " at " + at.Format(time.TimeOnly)})
			}
			n, err := f.SetAlarms(f.ctx, list, func(a store.Alarm, ended bool) store.Event {
				kind := "alarm.begins"
				if ended {
					kind = "alarm.ends"
				}
				return store.Event{Time: at, Kind: kind, Code: a.Name, Message: a.Fact}
			})
			f.must(err)
			return n
		}
		events := func() (list []string) {
			all, err := f.Events(f.ctx, store.EventFilter{Kind: "alarm."})
			f.must(err)
			for _, e := range all {
				list = append(list, e.Kind+" "+e.Code)
			}
			return list
		}
		equal(f, "changes", set("backup-old disk-low", Epoch), 2)
		equal(f, "changes when nothing changes", set("disk-low backup-old", Epoch.Add(time.Minute)), 0)
		lasting, err := f.Alarms(f.ctx)
		f.must(err)
		equal(f, "alarms", lasting, []store.Alarm{
			{Name: "backup-old", Since: Epoch, Fact: "backup-old at " + Epoch.Format(time.TimeOnly)},
			{Name: "disk-low", Since: Epoch, Fact: "disk-low at " + Epoch.Format(time.TimeOnly)},
		})
		equal(f, "changes when one ends", set("backup-old", Epoch.Add(time.Hour)), 1)
		equal(f, "changes when it begins again", set("backup-old disk-low", Epoch.Add(2*time.Hour)), 1)
		equal(f, "events", events(), []string{"alarm.begins disk-low", "alarm.ends disk-low", "alarm.begins disk-low", "alarm.begins backup-old"})
		equal(f, "changes when all end", set("", Epoch.Add(3*time.Hour)), 2)
		lasting, err = f.Alarms(f.ctx)
		f.must(err)
		equal(f, "alarms in the end", len(lasting), 0)
	}},
	// A replica that was paused for too long has lost its lease to another replica. It must not
	// change the alarms any more, because it would end alarms that the other replica has raised.
	{"PausedReplicaChangesNone", func(f *fixture) {
		old, err := f.Lease(f.ctx, "sweep", "a", shortLease)
		f.must(err)
		f.takenOver("sweep", "b")
		_, err = f.SetAlarms(store.WithFence(f.ctx, old), []store.Alarm{{Name: "disk-low", Since: Epoch}}, func(store.Alarm, bool) store.Event { return store.Event{} })
		f.refused(err, store.ErrFenced)
		lasting, err := f.Alarms(f.ctx)
		f.must(err)
		equal(f, "alarms", len(lasting), 0)
	}},
	{"Upkeep", func(f *fixture) {
		at, err := f.LastBackup(f.ctx)
		f.must(err)
		equal(f, "backup before the first", at.IsZero(), true)
		for _, want := range []time.Time{Epoch, Epoch.Add(time.Hour)} {
			f.must(f.SetLastBackup(f.ctx, want))
			at, err = f.LastBackup(f.ctx)
			f.must(err)
			equal(f, "last backup", at.Equal(want.Truncate(time.Second)), true)
		}
		for _, want := range []string{"", "The backup is gone.", ""} {
			if want != "" {
				f.must(f.SetBackupFault(f.ctx, want))
			}
			fault, err := f.BackupFault(f.ctx)
			f.must(err)
			equal(f, "fault of the backup", fault, want)
			f.must(f.SetBackupFault(f.ctx, ""))
		}
		scan, err := f.TrustScan(f.ctx)
		f.must(err)
		equal(f, "scan before the first", len(scan), 0)
		f.must(f.SetTrustScan(f.ctx, []byte(`{"a":1}`)))
		scan, err = f.TrustScan(f.ctx)
		f.must(err)
		equal(f, "scan", string(scan), `{"a":1}`)
		now, err := f.Clock(f.ctx)
		f.must(err)
		equal(f, "the database's clock is near", time.Since(now).Abs() < time.Minute, true)
	}},
	{"QuietDevicesOfAllOwners", func(f *fixture) {
		quiet := func(what string, want int) {
			f.Helper()
			n, err := f.HubCounts(f.ctx)
			f.must(err)
			equal(f, what, n.Quiet, want)
		}
		quiet("without devices", 0)
		one := f.join(Machine{Name: "one"}, func(*store.Enrolment) {})
		f.join(Machine{Name: "two"}, func(*store.Enrolment) {})
		quiet("at first", 0)
		_, err := f.MarkQuiet(f.ctx, Epoch.AddDate(10, 0, 0), 100)
		f.must(err)
		quiet("of two", 2)
		f.must(f.DeleteDevice(f.ctx, f.owner.ID, one.ID, Epoch))
		quiet("after one was deleted", 1)
		undecided, err := f.CountUndecided(f.ctx, 10)
		f.must(err)
		equal(f, "waiting devices", undecided, 0)
	}},
}
