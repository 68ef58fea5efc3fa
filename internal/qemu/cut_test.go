package qemu_test

import (
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"gangway/image/stick"
)

// firstBoot matches a line that appears only in the first boot after the installation.
const firstBoot = `: network: `

// moments contains patterns of console lines. Each marks a moment of an installation or of the
// first boot at which a test may cut the power.
var moments = []string{
	`: installing: verify`, `: installing: wipe`, `: installing: write 0%`, `: installing: write 50%`, `: installing: read back`, `: installing: arm`,
	`: installed in`, `: restart`, firstBoot, `: Joining the hub`, `^Made the request`, `: onboarded`, `^Connected to`,
}

// A power cut at any moment of the installation or of the first boot must not make the machine
// unusable. At a later start, the machine boots from the disk, or the stick installs the system
// again, without a person's help. The owner then has this machine only once in the device list.
//
// The test cuts the power once. GANGWAY_POWER_CUTS sets another number ("make e2e-full" cuts 20
// times); GANGWAY_POWER_SEED repeats an earlier run.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	long(t)
	s := newSite(t, stick.Config{})
	cuts, seed := 1, uint64(time.Now().UnixNano())
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
		left := moments
		for n := 0; n < 3 && cut <= cuts && len(left) > 0; n++ { // each cut continues from the state after the previous cut
			var came bool
			if came, left = s.cutAt(t, cut, left[r.IntN(len(left))], time.Duration(r.Int64N(int64(1500*time.Millisecond)))); came {
				cut++
			}
		}
		m, ctx := boot(t, s.with(true))
		waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
		m.Stop()
		s.listed(t)
	}
}

// cutAt waits until the machine has printed the line of the moment `moment`, waits for the time
// `later`, and cuts the power. `came` reports whether the machine printed the line. `left` has the
// moments that can still occur at the next start. If the machine is already past the moment, cutAt
// cuts the power after the hub has accepted a report, which is the last event of the first boot.
func (s *site) cutAt(t *testing.T, n int, moment string, later time.Duration) (came bool, left []string) {
	t.Helper()
	m, ctx := boot(t, s.with(true))
	waitFor(t, ctx, m, `(`+moment+`)|: the hub has accepted a report`)
	_, _, came = m.Find(regexp.MustCompile(moment))
	time.Sleep(later)
	m.Stop()
	lines := m.Lines()
	t.Logf("cut %d, %s after %q (which came: %v); the last line was %q", n, later.Round(time.Millisecond), moment, came, lines[len(lines)-1].Text)
	if _, _, onboarded := m.Find(regexp.MustCompile(`: onboarded|: This machine is onboarded`)); onboarded {
		return came, nil
	}
	if _, _, installed := m.Find(regexp.MustCompile(`: installed in|has already installed Gangway on this machine`)); installed {
		return came, moments[slices.Index(moments, firstBoot):]
	}
	return came, moments
}
