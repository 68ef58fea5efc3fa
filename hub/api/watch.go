package api

import (
	"context"
	"slices"

	"gangway/hub/alarm"
	"gangway/hub/store"
)

// Kinds of events about alarms. The code of such an event is the alarm's name.
const (
	alarmBegins = "alarm.begins"
	alarmEnds   = "alarm.ends"
)

// watch takes a reading of the hub's values, and records which alarms have begun or ended. If there
// are several replicas, only one of them does this. Its reading covers only its own disk and
// certificates, and only the requests that it answered itself.
func (s *Server) watch(ctx context.Context) {
	if err := s.scanTrust(ctx, scanInSweep); err != nil && !interrupted(ctx, err) {
		s.log.Error("could not examine devices after a change of trust", "err", err)
	}
	if err := s.recordAlarms(ctx, s.reading(ctx, true)); err != nil && !interrupted(ctx, err) {
		s.log.Error("recording alarms", "err", err)
	}
}

func (s *Server) recordAlarms(ctx context.Context, r *alarm.Reading) error {
	before, err := s.cfg.Store.Alarms(ctx)
	if err != nil {
		return err
	}
	lasting, unknown := alarm.Check(r)
	var list []store.Alarm
	for _, c := range lasting {
		list = append(list, store.Alarm{Name: c.Name, Since: r.Now, Fact: c.Fact})
	}
	for _, a := range before {
		if slices.Contains(unknown, a.Name) {
			list = append(list, a)
		}
	}
	if sameAlarms(before, list) {
		return nil // most sweeps write nothing
	}
	n, err := s.cfg.Store.SetAlarms(ctx, list, func(a store.Alarm, ended bool) store.Event {
		e := store.Event{Time: r.Now, Kind: alarmBegins, Code: a.Name, Message: a.Fact}
		if rule, ok := alarm.Find(a.Name); ok {
			e.Message += " " + rule.Remedy
		}
		if ended {
			e.Kind, e.Message = alarmEnds, "This condition has ended: "+a.Fact
		}
		return e
	})
	if n > 0 {
		s.log.Warn("alarms changed", "lasting", names(list))
	}
	return err
}

func sameAlarms(a, b []store.Alarm) bool {
	x, y := names(a), names(b)
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(x, y)
}

func names(list []store.Alarm) (names []string) {
	for _, a := range list {
		names = append(names, a.Name)
	}
	return names
}
