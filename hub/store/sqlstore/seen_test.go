package sqlstore_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/hub/store/sqlite"
	"gangway/hub/store/sqlstore"
	"gangway/hub/store/storetest"
)

// A sighting of a device that does not exist must not stay in memory.
func TestSightingsSurviveAFlushUnchanged(t *testing.T) {
	t.Parallel()
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "hub.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	// There are more sightings than fit into one write. The devices do not exist, so Flush must
	// write nothing, and the next Flush must drop all sightings.
	for i := range 3 * sqlstore.FlushChunk {
		if err := s.MarkDeviceSeen(t.Context(), fmt.Sprint(i), "", time.UnixMicro(1)); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{3 * sqlstore.FlushChunk, 0} {
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		if n := s.Held(); n != want {
			t.Errorf("%d sightings are held, want %d", n, want)
		}
	}
}

// A reader reads a device before its sighting is written, and looks for the sighting in memory after
// that.
func TestReaderFindsASightingThatIsJustWritten(t *testing.T) {
	t.Parallel()
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "hub.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	now := storetest.Epoch
	d, err := s.CreateDevice(t.Context(), store.Device{ID: storetest.ID("d"), Nick: "d", Created: now}, store.Hash{1})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.MarkDeviceSeen(t.Context(), d.ID, "192.0.2.1:1", now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if s.Overlay(&d); !d.LastSeen.Equal(now.Add(time.Minute)) {
		t.Errorf("last seen at %v", d.LastSeen)
	}
}

// If MarkQuiet finds that a sighting is too old, writing this sighting later must not make the
// device active again.
func TestOldContactLeavesADeviceQuiet(t *testing.T) {
	t.Parallel()
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "hub.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	owner, now := storetest.Account("ada"), storetest.Epoch
	if err := s.CreateAccount(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	d, err := s.CreateDevice(t.Context(), store.Device{ID: storetest.ID("d"), Nick: "d", Owner: owner.ID, Created: now}, store.Hash{1})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.MarkDeviceSeen(t.Context(), d.ID, "192.0.2.1:1", now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if n, err := s.MarkQuiet(t.Context(), now.Add(time.Hour), 10); err != nil || n != 1 {
		t.Fatalf("%d devices became quiet, %v", n, err)
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	n, err := s.FleetCounts(t.Context(), owner.ID)
	if err != nil || n.ByState[store.StateQuiet] != 1 {
		t.Errorf("%v, %v: the device is not quiet", n.ByState, err)
	}
	got, err := s.Device(t.Context(), d.ID)
	if err != nil || !got.LastSeen.Equal(now.Add(time.Minute)) || got.LastSeenAddr != "192.0.2.1:1" {
		t.Errorf("last seen at %s from %s, %v", got.LastSeen, got.LastSeenAddr, err)
	}
}
