package qemu_test

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"gangway/image/stick"
)

// moments of an installation and of a first boot. From each on, the power may
// be cut.
var moments = []string{
	`: installing: verify`, `: installing: wipe`, `: installing: write 0%`, `: installing: write 50%`, `: installing: read back`, `: installing: arm`,
	`: installed in`, `: restart`, `: network: `, `: Joining the hub`, `^Request signed`, `: onboarded`, `^Connected to`,
}

// Whenever the power is cut, in the installation or in the first boot, the
// machine comes up by itself in the end, as one device: from the disk, or by
// the stick.
//
// Three cuts; GANGWAY_POWER_CUTS is another number, GANGWAY_POWER_SEED repeats a
// run.
func TestPowerCuts(t *testing.T) {
	s := newSite(t, stick.Config{})
	cuts, seed := 3, uint64(time.Now().UnixNano())
	if n, err := strconv.Atoi(os.Getenv("GANGWAY_POWER_CUTS")); err == nil {
		cuts = n
	}
	if n, err := strconv.ParseUint(os.Getenv("GANGWAY_POWER_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("GANGWAY_POWER_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for cut := 1; cut <= cuts; {
		s.empty(t)
		for range 3 { // cut again in what the last cut left
			if cut <= cuts {
				s.cutAt(t, cut, moments[r.IntN(len(moments))], time.Duration(r.Int64N(int64(1500*time.Millisecond))))
				cut++
			}
		}
		m, ctx := boot(t, s.with(true))
		waitFor(t, ctx, m, `gangway-init .*: the hub has taken a report`)
		m.Stop()
		s.listed(t)
	}
}

// cutAt cuts the power some time after a moment; where that does not come,
// since the machine is further, when it is aboard.
func (s *site) cutAt(t *testing.T, n int, moment string, later time.Duration) {
	t.Helper()
	m, ctx := boot(t, s.with(true))
	waitFor(t, ctx, m, `(`+moment+`)|: This machine is aboard`)
	time.Sleep(later)
	m.Stop()
	lines := m.Lines()
	t.Logf("cut %d, %s behind %q; the last line was %q", n, later.Round(time.Millisecond), moment, lines[len(lines)-1].Text)
}
