package sqlstore_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"gangway/hub/store/sqlite"
	"gangway/hub/store/sqlstore"
)

func TestSightingsSurviveAFlushUnchanged(t *testing.T) {
	t.Parallel()
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "hub.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	// There are more contacts than one write can contain. The devices do not exist, so Flush must
	// write nothing and drop all contacts.
	for i := range 3 * sqlstore.FlushChunk {
		if err := s.MarkDeviceSeen(t.Context(), fmt.Sprint(i), "", time.UnixMicro(1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if n := s.Held(); n != 0 {
		t.Errorf("%d sightings are still held", n)
	}
}
