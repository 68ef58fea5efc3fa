package api

import (
	"context"
	"time"

	"gangway/hub/objects"
)

// These constants say how long Collect keeps data that may be unused.
const (
	// pendingAge is how long an announced object may wait for its upload.
	pendingAge = 24 * time.Hour
	// unusedAge is how long the hub keeps an object that no revision names. The owner needs this
	// time to post the revision for which the owner uploaded the object.
	unusedAge = 7 * 24 * time.Hour
	// uploadAge is how long an upload may go on without progress. An upload that is not resumable
	// makes progress only when it begins and when it ends.
	uploadAge = 24 * time.Hour
	// orphanAge is how old a stored file must be before Collect asks the database whether an object
	// or an upload still needs the file.
	orphanAge = time.Hour
)

// Collect removes unused data:
//   - trails and logs of deleted devices,
//   - records of objects that no revision names,
//   - stored files that no record needs,
//   - log lines that are older than the limit of the hub or of their owner.
//
// Collect may run at any time, concurrently with requests.
func (s *Server) Collect(ctx context.Context) error {
	now := s.cfg.Now()
	for _, expire := range []func() (int, error){
		func() (int, error) { return s.cfg.Store.RemoveDeletedTrails(ctx, 100) },
		func() (int, error) {
			return s.cfg.Store.ExpireObjects(ctx, now.Add(-pendingAge), now.Add(-unusedAge), 1000)
		},
		func() (int, error) { return s.expireUploads(ctx, now.Add(-uploadAge)) },
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
	if err := s.keepOwnersLogs(ctx, now); err != nil {
		return err
	}
	return s.cfg.Objects.Walk(ctx, func(key objects.Key, info objects.Info) error {
		if now.Sub(info.Modified) < orphanAge {
			return nil
		}
		unneeded, err := s.cfg.Store.RemoveContent(ctx, key.Sum, key.Place)
		if err != nil || !unneeded {
			return err
		}
		// This removal may be late: another replica may already do the periodic work. But it can
		// never remove the bytes of a later upload, because each upload writes to a new place in
		// the object store.
		return s.cfg.Objects.Delete(ctx, key)
	})
}

// collectLoop runs Collect at the start and every hour. If there are several replicas, only one of
// them runs it.
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
