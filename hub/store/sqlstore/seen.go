package sqlstore

import (
	"context"
	"sync"
	"time"

	"gangway/hub/store"
)

// flushEvery is the interval at which sightings of devices are written to the database. If the hub
// crashes, it loses the sightings of at most one interval.
const flushEvery = time.Second

// flushChunk is the largest number of sightings in one write. It is small, so that the sightings of
// a large fleet do not delay an activation.
const flushChunk = 128

var updateSeen = prepared(`UPDATE devices SET last_seen = ?, last_seen_addr = ?, quiet = 0
	WHERE id = ? AND last_seen < ? AND deleted = 0`)

// sightings holds, for each device, the time and the address at which it was last seen, until they
// are written to the database. A read of a device uses both the database and sightings, so a reader
// always gets the latest sighting.
type sightings struct {
	db   DB
	stop chan struct{}
	done chan struct{}

	mu     sync.RWMutex
	closed bool
	latest map[string]sighting // by device id
}

type sighting struct {
	at      int64 // in microseconds since 1970, like the column last_seen
	addr    string
	written bool // it is in the database
}

func newSightings(db DB) *sightings {
	s := &sightings{
		db:     db,
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
		latest: make(map[string]sighting),
	}
	go s.loop()
	return s
}

// MarkDeviceSeen implements store.Devices. It does not wait for the disk. If calls come in another
// order than their times, the latest time is kept. MarkDeviceSeen ignores a device that does not
// exist.
func (s *Store) MarkDeviceSeen(ctx context.Context, id, addr string, now time.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.seen.record(id, sighting{at: micro(now), addr: addr})
}

func (s *sightings) record(id string, seen sighting) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if last, ok := s.latest[id]; !ok || last.at < seen.at {
		s.latest[id] = seen
	}
	return nil
}

// overlay updates the device `d`, which was read from the database, with the device's sighting that
// has not been written to the database yet.
func (s *sightings) overlay(d *store.Device) {
	s.mu.RLock()
	seen, ok := s.latest[d.ID]
	s.mu.RUnlock()
	if ok && seen.at > micro(d.LastSeen) {
		d.LastSeen, d.LastSeenAddr = fromMicro(seen.at), seen.addr
	}
}

func (s *sightings) loop() {
	defer close(s.done)
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			// If the write fails, the sightings are kept, and the next flush retries.
			_ = s.flush()
		case <-s.stop:
			return
		}
	}
}

// flush writes the current sightings to the database. A sighting stays in memory until the next
// flush, or until a later one has replaced it. So a reader that read the device before the commit
// finds the sighting in memory, even if it looks there only after the commit.
func (s *sightings) flush() error {
	type entry struct {
		id string
		sighting
	}
	s.mu.Lock()
	held := make([]entry, 0, len(s.latest))
	for id, seen := range s.latest {
		if seen.written {
			delete(s.latest, id)
			continue
		}
		held = append(held, entry{id, seen})
	}
	s.mu.Unlock()
	for len(held) > 0 {
		chunk := held[:min(flushChunk, len(held))]
		held = held[len(chunk):]
		err := s.db.Write(context.Background(), func(c Conn) error {
			for _, e := range chunk {
				if err := c.Do(updateSeen, e.at, e.addr, e.id, e.at); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		s.mu.Lock()
		for _, e := range chunk {
			if s.latest[e.id] == e.sighting {
				e.written = true
				s.latest[e.id] = e.sighting
			}
		}
		s.mu.Unlock()
	}
	return nil
}

// close stops the goroutine that calls flush, and writes the sightings that are still only in
// memory.
func (s *sightings) close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	close(s.stop)
	<-s.done
	return s.flush()
}
