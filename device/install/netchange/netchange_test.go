package netchange

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func file(lines ...string) string { return "version = 1\n" + strings.Join(lines, "\n") + "\n" }

func store(t *testing.T) *Store {
	t.Helper()
	return &Store{Dir: filepath.Join(t.TempDir(), "network"), Now: func() time.Time { return time.Unix(1800000000, 0) }}
}

// begins checks what a start of the machine uses.
func (s *Store) begins(t *testing.T, boot, want string, tried bool) {
	t.Helper()
	settings, is, err := s.Begin(boot)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(settings.Masked(), "; "); got != want || is != tried {
		t.Errorf("boot %s: %q, tried %v", boot, got, is)
	}
}

func (s *Store) offers(t *testing.T, from Source, text string, try, want bool) {
	t.Helper()
	if news, err := s.Offer(from, text, try); err != nil || news != want {
		t.Errorf("news %v, %v", news, err)
	}
}

func (s *Store) ended(t *testing.T, want string) {
	t.Helper()
	last, err := s.Last()
	if err != nil || last == nil {
		t.Fatal(last, err)
	}
	if got := fmt.Sprintf("%s %s %s", last.From, last.Result, last.Reason); got != want {
		t.Errorf("it ended so: %q", got)
	}
}

func TestSettingsThatReachTheHubAreKept(t *testing.T) {
	s := store(t)
	s.begins(t, "one", "", false)
	s.offers(t, Stick, file("vlan = 7"), false, true)
	s.begins(t, "one", "vlan = 7", false)
	s.ended(t, "stick kept ")
	s.offers(t, Hub, file("vlan = 8"), true, true)
	s.begins(t, "two", "vlan = 8", true)
	s.begins(t, "two", "vlan = 8", true) // the first process asks again
	if err := s.Keep(); err != nil {
		t.Fatal(err)
	}
	s.ended(t, "hub kept ")
	s.begins(t, "three", "vlan = 8", false)
}

// New settings have one start of the machine; the former ones come back, by
// themselves, for good.
func TestSettingsThatDoNotReachTheHubFallBack(t *testing.T) {
	s := store(t)
	s.offers(t, Stick, file("vlan = 7"), false, true)
	s.offers(t, Hub, file("vlan = 8"), true, true)
	s.begins(t, "one", "vlan = 8", true)
	if err := s.Drop("The hub was not reached within 10m0s."); err != nil {
		t.Fatal(err)
	}
	s.ended(t, "hub dropped The hub was not reached within 10m0s.")
	s.begins(t, "two", "vlan = 7", false)
	s.offers(t, Hub, file("vlan = 8"), true, false) // it is still set there
	s.begins(t, "three", "vlan = 7", false)

	// The power is cut in the trial.
	s.offers(t, Hub, file("vlan = 9"), true, true)
	s.begins(t, "four", "vlan = 9", true)
	s.begins(t, "five", "vlan = 7", false)
	s.ended(t, "hub dropped The machine started again before it had reached the hub with them.")
	if err := s.Keep(); err != nil { // too late
		t.Fatal(err)
	}
	s.begins(t, "six", "vlan = 7", false)
}

// A source that says the same again changes nothing: a stick that stays in does
// not undo what the owner has set since.
func TestEachOfferIsLookedAtOnce(t *testing.T) {
	s := store(t)
	s.offers(t, Stick, file("vlan = 7"), false, true)
	s.offers(t, Hub, file("vlan = 8"), true, true)
	s.begins(t, "one", "vlan = 8", true)
	if err := s.Keep(); err != nil {
		t.Fatal(err)
	}
	s.offers(t, Stick, file("vlan = 7"), true, false)
	s.offers(t, Hub, file("vlan = 8"), true, false)
	s.begins(t, "two", "vlan = 8", false)
	s.offers(t, Stick, file("vlan = 9"), true, true) // a person has edited it
	s.begins(t, "three", "vlan = 9", true)
}

// What is in force already is not tried; an offer that is taken back before it
// was tried is none.
func TestOfferOfWhatIsInForceIsNothingNew(t *testing.T) {
	s := store(t)
	s.offers(t, Stick, file("vlan = 7"), false, true)
	s.offers(t, Hub, file("vlan = 8"), true, true)
	s.offers(t, Hub, file("# as before", "vlan = 7"), true, false)
	s.begins(t, "one", "vlan = 7", false)
	s.offers(t, Hub, "", true, true) // automatic again
	s.begins(t, "two", "", true)
}

func TestOfferWithAMistakeIsRefusedAndTold(t *testing.T) {
	s := store(t)
	news, err := s.Offer(Hub, file("vlan = 5000"), true)
	if news || err == nil || !strings.Contains(err.Error(), "from 1 to 4094") {
		t.Error(news, err)
	}
	s.ended(t, `hub refused network.txt, line 2: vlan "5000" is not a VLAN id; write a number from 1 to 4094.`)
	s.begins(t, "one", "", false)
	if news, err := s.Offer(Hub, file("vlan = 5000"), true); news || err != nil {
		t.Errorf("it is told again: %v, %v", news, err)
	}
}

func TestReportMasksSecrets(t *testing.T) {
	s := store(t)
	s.offers(t, Stick, file("proxy = http://ada:hunter2@proxy.example:3128"), false, true)
	s.offers(t, Hub, file("proxy = http://ada:hunter3@proxy.example:3128"), true, true)
	report, err := s.Report()
	if err != nil || strings.Contains(report, "hunter") {
		t.Errorf("%s, %v", report, err)
	}
	for _, want := range []string{"in force:\n  proxy = http://ada:********@proxy.example:3128\n", "tried, from the hub:\n", "last change: from the stick, kept at 2027-01-15T08:00:00Z"} {
		if !strings.Contains(report, want) {
			t.Errorf("it does not say %q:\n%s", want, report)
		}
	}
}

type cut struct{}

// The power fails before any write of a change and of its trial. The next start
// uses the former settings or the new ones, and nothing else; the new ones are not
// tried twice, and a trial that was cut short falls back.
func TestPowerCutAtAnyChangeLeavesSettingsThatWork(t *testing.T) {
	for at := 1; ; at++ {
		s := store(t)
		s.offers(t, Stick, file("vlan = 7"), false, true)
		n, tries := 0, 0
		s.before = func() {
			if n++; n == at {
				panic(cut{})
			}
		}
		was := func() (was bool) {
			defer func() {
				if v := recover(); v != nil {
					if _, was = v.(cut); !was {
						panic(v)
					}
				}
			}()
			s.offers(t, Hub, file("vlan = 8"), true, true)
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
				t.Errorf("cut at %d: %q", at, got)
			}
		}
		if tries > 1 {
			t.Errorf("cut at %d: it was tried %d times", at, tries)
		}
		if !was {
			if at < 6 {
				t.Errorf("only %d writes", at)
			}
			return
		}
	}
}

// A journal that cannot be written to has nothing tried.
func TestTrialThatCannotBeNotedIsNotBegun(t *testing.T) {
	s := store(t)
	s.offers(t, Stick, file("vlan = 7"), false, true)
	s.offers(t, Hub, file("vlan = 8"), true, true)
	s.before = func() { os.RemoveAll(s.Dir) } // in the place of a disk that fails
	settings, tried, err := s.Begin("one")
	if err == nil || tried || strings.Join(settings.Masked(), "") != "vlan = 7" {
		t.Error(settings.Masked(), tried, err)
	}
}
