package main

import (
	"testing"

	"gangway/internal/fleet"
)

// Upper bounds for the bytes that each device adds to a database. They are a little above the
// figures in docs/scale.md: this test has few devices, so partly filled pages count more.
const (
	mostInSQLite   = 4700
	mostInPostgres = 6900
)

func TestADeviceNeedsFewBytesInTheDatabase(t *testing.T) {
	if testing.Short() {
		t.Skip("onboards hundreds of devices")
	}
	t.Chdir(t.TempDir()) // openHub makes the folder build
	maker, err := fleet.NewMaker("bench", fleet.MakerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	list, err := measureBytes(maker, 300)
	if err != nil {
		t.Fatal(err)
	}
	for i, most := range []float64{mostInSQLite, mostInPostgres} {
		if b := list[i]; b.Total > most || b.Total < 1000 {
			t.Errorf("%s: %.0f bytes per device, at most %.0f are expected: %v", b.Engine, b.Total, most, b.Parts)
		}
	}
}
