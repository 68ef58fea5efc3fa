package sqlite

import (
	"context"
	"sync"
	"time"

	"gangway/hub/store"
)

// flushEvery is how long a contact may wait before it is written. A crash loses at most the
// contacts that are still waiting.
const flushEvery = time.Second

// flushChunk bounds the updates in one write, so that the contacts of a large fleet do not delay an
// activation.
const flushChunk = 128

var updateSeen = prepared(`UPDATE devices SET last_seen = ?, last_seen_addr = ?, quiet = 0
	WHERE id = ? AND last_seen < ? AND deleted = 0`)

// sightings holds each device's latest contact until it is written. Reads of a device look here
// too, so no reader sees the delay.
type sightings struct {
	writer *writer
	stop   chan struct{}
	done   chan struct{}

	mu     sync.RWMutex
	closed bool
	latest map[string]sighting // by device id
}

type sighting struct {
	at   int64 // microseconds, like the column
	addr string
}

func newSightings(w *writer) *sightings {
	s := &sightings{
		writer: w,
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
		latest: make(map[string]sighting),
	}
	go s.loop()
	return s
}

// MarkDeviceSeen implements store.Devices. It does not wait for the disk. The latest time wins,
// whatever the order of the calls. It ignores a device that does not exist.
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
		return errClosed
	}
	if last, ok := s.latest[id]; !ok || last.at < seen.at {
		s.latest[id] = seen
	}
	return nil
}

// overlay adds a contact that is not written yet to a device that was read from the file.
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
			// Contacts that could not be written are kept, and the next flush tries again.
			_ = s.flush()
		case <-s.stop:
			return
		}
	}
}

// flush writes the contacts held now. An entry is removed only after its commit, and only if no
// later one replaced it. So at every moment a reader finds it in the file or here.
func (s *sightings) flush() error {
	type entry struct {
		id string
		sighting
	}
	s.mu.RLock()
	held := make([]entry, 0, len(s.latest))
	for id, seen := range s.latest {
		held = append(held, entry{id, seen})
	}
	s.mu.RUnlock()
	for len(held) > 0 {
		chunk := held[:min(flushChunk, len(held))]
		held = held[len(chunk):]
		err := s.writer.do(context.Background(), func(c *conn) error {
			for _, e := range chunk {
				if _, err := c.exec(updateSeen, e.at, e.addr, e.id, e.at); err != nil {
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
				delete(s.latest, e.id)
			}
		}
		s.mu.Unlock()
	}
	return nil
}

// close flushes for the last time.
func (s *sightings) close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	close(s.stop)
	<-s.done
	return s.flush()
}
