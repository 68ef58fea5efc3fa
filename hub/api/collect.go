package api

import (
	"context"
	"time"

	"gangway/hub/objects"
	"gangway/hub/store"
)

// Collect keeps unused data for these times.
const (
	// pendingAge is how long an announced object may wait for its upload.
	pendingAge = 24 * time.Hour
	// unusedAge is how long the hub keeps an object that no revision names. The owner needs this
	// time to post the revision for which the owner uploaded the object.
	unusedAge = 7 * 24 * time.Hour
	// orphanAge is the age at which Collect removes a stored file without an object's record.
	orphanAge = time.Hour
)

// Collect removes unused data: trails and logs of deleted devices, records of objects that no
// revision names, stored files without an object's record, and old log lines. It may run at any
// time, concurrently with requests.
func (s *Server) Collect(ctx context.Context) error {
	now := s.cfg.Now()
	for _, expire := range []func() (int, error){
		func() (int, error) { return s.cfg.Store.RemoveDeletedTrails(ctx, 100) },
		func() (int, error) {
			return s.cfg.Store.ExpireObjects(ctx, now.Add(-pendingAge), now.Add(-unusedAge), 1000)
		},
		func() (int, error) { return s.cfg.Store.ExpireLogs(ctx, now.Add(-s.cfg.LogAge), 1000) },
	} {
		for {
			n, err := expire()
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
		}
	}
	remove := func(sum store.Hash) error {
		// Another replica may have finished this removal, so that the owner can upload the object again.
		if err := s.lease.inTime(); err != nil {
			return err
		}
		limited, cancel := context.WithTimeout(ctx, leaseMargin)
		defer cancel()
		if err := s.cfg.Objects.Delete(limited, sum); err != nil {
			return err
		}
		return s.cfg.Store.FinishRemoval(ctx, sum)
	}
	// Continue the removals that an interrupted run left.
	left, err := s.cfg.Store.UnfinishedRemovals(ctx)
	if err != nil {
		return err
	}
	for _, sum := range left {
		if err := remove(sum); err != nil {
			return err
		}
	}
	return s.cfg.Objects.Walk(ctx, func(sum objects.Sum, info objects.Info) error {
		if now.Sub(info.Modified) < orphanAge {
			return nil
		}
		going, err := s.cfg.Store.BeginRemoval(ctx, sum)
		if err != nil || !going {
			return err
		}
		return remove(sum)
	})
}

// collectLoop runs Collect at the start and every hour. Of several replicas, one does this.
func (s *Server) collectLoop(ctx context.Context) {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		if duty, ok := s.lease.duty(ctx); ok {
			if err := s.Collect(duty); err != nil && !interrupted(duty, err) {
				s.log.Error("collecting unused data", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
