package sqlite_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gangway/hub/store"
)

// An older hub stored a boot in the state BootMatches even if the firmware had measured nothing.
// The migration corrects this state.
func TestMigrationFindsBootsInWhichNothingWasMeasured(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "hub.db")
	s, _ := harbour(t, path)
	pcrs := func(first string) string {
		values := make([]string, 16)
		for i := range values {
			values[i] = `"` + strings.Repeat("0", 64) + `"`
		}
		values[4], values[10] = `"`+first+`"`, `"`+strings.Repeat("a", 64)+`"`
		return `{"pcrs":[` + strings.Join(values, ",") + `]}`
	}
	for _, c := range []struct{ device, measurement string }{
		{"nothing", pcrs(strings.Repeat("0", 64))}, {"something", pcrs(strings.Repeat("0", 63) + "1")}, {"other", `{"n":1}`},
	} {
		query(t, path, fmt.Sprintf(`INSERT INTO boots (device, time, state, measurement, changes, nonce, attest, signature, log) VALUES ('%s', 1, 'matches', CAST('%s' AS BLOB), x'', x'', x'', x'', x'')`, c.device, c.measurement))
		query(t, path, fmt.Sprintf(`INSERT INTO boot_devices (device, state, requested) VALUES ('%s', 'matches', 0)`, c.device))
	}
	raw, err := os.ReadFile(filepath.Join("migrations", "0016_boot_states.sql"))
	if err != nil {
		t.Fatal(err)
	}
	up, _, _ := strings.Cut(string(raw), "-- +goose Down")
	for _, statement := range strings.Split(up, ";") {
		if i := strings.Index(statement, "UPDATE "); i >= 0 {
			query(t, path, statement[i:])
		}
	}
	for device, want := range map[string]string{"nothing": store.BootNothing, "something": store.BootMatches, "other": store.BootMatches} {
		state, err := s.BootState(t.Context(), device)
		if err != nil || state != want {
			t.Errorf("%s: %q, %v", device, state, err)
		}
		if b, err := s.LatestBoot(t.Context(), device); err != nil || b.State != want {
			t.Errorf("%s: its latest boot is %q, %v", device, b.State, err)
		}
	}
}
