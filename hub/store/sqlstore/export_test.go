package sqlstore

import "gangway/hub/store"

// FlushChunk is the constant flushChunk, for the tests in package sqlstore_test.
const FlushChunk = flushChunk

// Flush writes to the database when devices were last seen, as far as that is still only in memory.
func (s *Store) Flush() error { return s.seen.flush() }

// Overlay updates a device with its sighting in memory.
func (s *Store) Overlay(d *store.Device) { s.seen.overlay(d) }

// Held returns the number of devices whose latest sighting is in memory.
func (s *Store) Held() int {
	s.seen.mu.RLock()
	defer s.seen.mu.RUnlock()
	return len(s.seen.latest)
}
