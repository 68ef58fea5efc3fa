package netchange

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func settingsFile(lines ...string) string { return "version = 1\n" + strings.Join(lines, "\n") + "\n" }

func newStore(t *testing.T) *Store {
	t.Helper()
	return &Store{Dir: filepath.Join(t.TempDir(), "network"), Now: func() time.Time { return time.Unix(1800000000, 0) }}
}

// checkBegin checks which settings a boot of the machine uses, and whether these settings are on
// trial.
func (s *Store) checkBegin(t *testing.T, boot, want string, tried bool) {
	t.Helper()
	settings, is, err := s.Begin(boot)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(settings.Masked(), "; "); got != want || is != tried {
		t.Errorf("boot %s: %q, tried %v; want %q, tried %v", boot, got, is, want, tried)
	}
}

func (s *Store) checkOffer(t *testing.T, from Source, text string, try, want bool) {
	t.Helper()
	if news, err := s.Offer(from, text, try); err != nil || news != want {
		t.Errorf("offer from the %s: new %v, %v; want new %v", from, news, err, want)
	}
}

func (s *Store) checkLast(t *testing.T, want string) {
	t.Helper()
	last, err := s.Last()
	if err != nil || last == nil {
		t.Fatalf("the last offer's outcome is %v, %v; want %q", last, err, want)
	}
	if got := fmt.Sprintf("%s %s %s", last.From, last.Result, last.Reason); got != want {
		t.Errorf("the last offer's outcome: %q; want %q", got, want)
	}
}

func TestSettingsThatReachTheHubAreKept(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.checkBegin(t, "one", "", false)
	s.checkOffer(t, Stick, settingsFile("vlan = 7"), false, true)
	s.checkBegin(t, "one", "vlan = 7", false)
	s.checkLast(t, "stick kept ")
	s.checkOffer(t, Hub, settingsFile("vlan = 8"), true, true)
	s.checkBegin(t, "two", "vlan = 8", true)
	s.checkBegin(t, "two", "vlan = 8", true) // a second call of Begin in the same boot
	if err := s.Keep(); err != nil {
		t.Fatal(err)
	}
	s.checkLast(t, "hub kept ")
	s.checkBegin(t, "three", "vlan = 8", false)
}

// New settings are tried in one boot. If the machine does not reach the hub with the new settings,
// the previous settings apply again, and no person needs to act.
func TestSettingsThatDoNotReachTheHubFallBack(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.checkOffer(t, Stick, settingsFile("vlan = 7"), false, true)
	s.checkOffer(t, Hub, settingsFile("vlan = 8"), true, true)
	s.checkBegin(t, "one", "vlan = 8", true)
	if err := s.Drop("The hub was not reached within 10m0s."); err != nil {
		t.Fatal(err)
	}
	s.checkLast(t, "hub dropped The hub was not reached within 10m0s.")
	s.checkBegin(t, "two", "vlan = 7", false)
	s.checkOffer(t, Hub, settingsFile("vlan = 8"), true, false) // the hub offers the same settings again
	s.checkBegin(t, "three", "vlan = 7", false)

	// The test ends the trial's boot without Keep or Drop, as in a power cut. The trial counts as
	// failed.
	s.checkOffer(t, Hub, settingsFile("vlan = 9"), true, true)
	s.checkBegin(t, "four", "vlan = 9", true)
	s.checkBegin(t, "five", "vlan = 7", false)
	s.checkLast(t, "hub dropped The machine restarted before it reached the hub with these settings.")
	if err := s.Keep(); err != nil { // too late: the trial is over
		t.Fatal(err)
	}
	s.checkBegin(t, "six", "vlan = 7", false)
}

// If a stick or the hub offers the same settings text again, nothing changes. So a stick that stays
// plugged in does not replace settings that the owner makes later.
func TestEachOfferIsLookedAtOnce(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.checkOffer(t, Stick, settingsFile("vlan = 7"), false, true)
	s.checkOffer(t, Hub, settingsFile("vlan = 8"), true, true)
	s.checkBegin(t, "one", "vlan = 8", true)
	if err := s.Keep(); err != nil {
		t.Fatal(err)
	}
	s.checkOffer(t, Stick, settingsFile("vlan = 7"), true, false)
	s.checkOffer(t, Hub, settingsFile("vlan = 8"), true, false)
	s.checkBegin(t, "two", "vlan = 8", false)
	s.checkOffer(t, Stick, settingsFile("vlan = 9"), true, true) // a person has edited the file
	s.checkBegin(t, "three", "vlan = 9", true)
}

// The machine does not try settings that are already in force. If a second offer arrives before the
// first one has been tried, the first offer has no effect.
func TestOfferOfWhatIsInForceIsNothingNew(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.checkOffer(t, Stick, settingsFile("vlan = 7"), false, true)
	s.checkOffer(t, Hub, settingsFile("vlan = 8"), true, true)
	s.checkOffer(t, Hub, settingsFile("# as before", "vlan = 7"), true, false)
	s.checkBegin(t, "one", "vlan = 7", false)
	s.checkOffer(t, Hub, "", true, true) // no settings: the network configures the machine again
	s.checkBegin(t, "two", "", true)
}

func TestOfferWithAMistakeIsRefusedAndTold(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	news, err := s.Offer(Hub, settingsFile("vlan = 5000"), true)
	if news || err == nil || !strings.Contains(err.Error(), "from 1 to 4094") {
		t.Errorf("got new %v, %v; want a mistake that says \"from 1 to 4094\"", news, err)
	}
	s.checkLast(t, `hub refused network.txt, line 2: vlan "5000" is not a VLAN id; write a number from 1 to 4094.`)
	s.checkBegin(t, "one", "", false)
	if news, err := s.Offer(Hub, settingsFile("vlan = 5000"), true); news || err != nil {
		t.Errorf("the same offer again: new %v, %v; want false, nil", news, err)
	}
}

func TestReportMasksSecrets(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.checkOffer(t, Stick, settingsFile("proxy = http://ada:hunter2@proxy.example:3128"), false, true)
	s.checkOffer(t, Hub, settingsFile("proxy = http://ada:hunter3@proxy.example:3128"), true, true)
	report, err := s.Report()
	if err != nil || strings.Contains(report, "hunter") {
		t.Errorf("the report shows a password: %s, %v", report, err)
	}
	for _, want := range []string{"in force:\n  proxy = http://ada:********@proxy.example:3128\n", "tried, from the hub:\n", "last change: settings from the stick were kept at 2027-01-15T08:00:00Z"} {
		if !strings.Contains(report, want) {
			t.Errorf("the report does not say %q:\n%s", want, report)
		}
	}
}

type powerCut struct{}

// The hub offers new settings, and the machine tries and keeps them. The test cuts the power before
// each write of the journal in turn. The next boot must use either the previous settings or the new
// settings. No second boot may try the new settings: if a power cut ends the trial, the machine
// drops them.
func TestPowerCutAtAnyChangeLeavesSettingsThatWork(t *testing.T) {
	t.Parallel()
	for at := 1; ; at++ {
		s := newStore(t)
		s.checkOffer(t, Stick, settingsFile("vlan = 7"), false, true)
		n, tries := 0, 0
		s.before = func() {
			if n++; n == at {
				panic(powerCut{})
			}
		}
		was := func() (was bool) {
			defer func() {
				if v := recover(); v != nil {
					if _, was = v.(powerCut); !was {
						panic(v)
					}
				}
			}()
			s.checkOffer(t, Hub, settingsFile("vlan = 8"), true, true)
			if _, tried, err := s.Begin("one"); err != nil {
				t.Fatal(err)
			} else if tried {
				tries++
			}
			if err := s.Keep(); err != nil {
				t.Fatal(err)
			}
			return false
		}()
		s.before = nil
		for boot := range 3 {
			settings, tried, err := s.Begin(fmt.Sprint("after ", boot))
			if err != nil {
				t.Fatal(err)
			}
			if tried {
				tries++
			}
			if got := strings.Join(settings.Masked(), ""); got != "vlan = 7" && got != "vlan = 8" {
				t.Errorf("cut at write %d: the settings are %q; want vlan 7 or 8", at, got)
			}
		}
		if tries > 1 {
			t.Errorf("cut at write %d: the settings were tried %d times", at, tries)
		}
		if !was {
			if at < 6 {
				t.Errorf("only %d writes; want at least 6", at)
			}
			return
		}
	}
}

// If the journal cannot be written, Begin does not return new settings to try.
func TestTrialThatCannotBeNotedIsNotBegun(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.checkOffer(t, Stick, settingsFile("vlan = 7"), false, true)
	s.checkOffer(t, Hub, settingsFile("vlan = 8"), true, true)
	s.before = func() { os.RemoveAll(s.Dir) } // simulates a disk that fails
	settings, tried, err := s.Begin("one")
	if err == nil || tried || strings.Join(settings.Masked(), "") != "vlan = 7" {
		t.Errorf("got %q, tried %v, %v; want vlan = 7, false and an error", settings.Masked(), tried, err)
	}
}
