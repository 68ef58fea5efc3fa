// Package netchange stores the network settings of an installed machine. The machine tries new
// settings for one boot before it keeps them. The installed system passes settings from a stick or
// the hub to Offer. At each boot it calls Begin, and then Keep or Drop.
//
//	offered ──> tried for one boot ──> kept     the machine reached the hub
//	                     └───────────> dropped  the machine did not reach the hub; the previous settings apply again
//
// The journal is one file that is replaced atomically, so a power cut at any moment leaves either
// the state before a change or the state after it. Before the machine uses new settings, Begin
// records in the journal that their trial has begun, so that no later boot tries them a second
// time.
package netchange

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gangway/device/install/netfile"
	"gangway/internal/diskfile"

	"golang.org/x/sys/unix"
)

// Source is the origin of offered settings.
type Source string

// The sources.
const (
	Stick Source = "stick" // the stick that installed the machine, or that it booted from later
	Hub   Source = "hub"   // set by the owner at the hub
	// Console is a person at the machine. Unlike other sources, a person may offer the same text
	// again, which then counts as a new offer.
	Console Source = "console"
)

// Result is the result of an offer.
type Result string

// The results of an offer.
const (
	Kept    Result = "kept"
	Dropped Result = "dropped" // the hub was not reached with the settings
	Refused Result = "refused" // the settings are not valid
)

// Outcome says what became of the settings that were offered last: kept, dropped or refused.
type Outcome struct {
	From   Source    `json:"from"`
	Result Result    `json:"result"`
	Reason string    `json:"reason,omitempty"` // a sentence, without secrets
	At     time.Time `json:"at"`
}

// trial has the settings that wait for a trial or are on trial.
type trial struct {
	Text string `json:"text"`
	From Source `json:"from"`
	// Boot is the kernel's boot id of the boot that tries the settings. Empty: no boot has
	// tried them yet.
	Boot string `json:"boot,omitempty"`
}

type journal struct {
	Version int    `json:"version"` // 1
	Kept    string `json:"kept"`    // text of the settings file; empty: no settings
	Trial   *trial `json:"trial,omitempty"`
	// Seen has, for each source, the SHA-256 of the text that the source offered last, in
	// lower-case hexadecimal. If a source offers the same text again, this does not count as a new
	// offer.
	Seen map[Source]string `json:"seen,omitempty"`
	Last *Outcome          `json:"last,omitempty"`
}

// Store is a folder with the journal. Several processes may use it at the same time.
type Store struct {
	Dir string
	Now func() time.Time // nil: time.Now
	// The function `before`, if set, is called before each write. Tests use it to simulate a power
	// cut.
	before func()
}

const (
	journalFile = "journal.json"
	lockFile    = "lock"
	maxJournal  = 256 << 10 // bytes
)

// Offer offers the text of a settings file from a source, and reports whether the settings are new.
// They are not new if they equal the settings in force or, unless the source is Console, if the
// source's last offer had the same text. If `try` is set, the next boot tries the new settings;
// otherwise they take effect at once, without a trial. Set `try` only for a machine that has
// reached the hub before. If the text is not valid, Offer returns the error, and the journal
// records that the settings were refused.
func (s *Store) Offer(from Source, text string, try bool) (news bool, err error) {
	var mistake error
	err = s.change(func(j *journal) bool {
		seen := digest(text)
		if j.Seen[from] == seen && from != Console {
			return false
		}
		j.Seen[from] = seen
		settings, err := netfile.Parse([]byte(text))
		if err != nil {
			mistake = err
			j.Last = s.outcome(from, Refused, sentence(err.Error()))
			return true
		}
		if settings.Text() == j.settings().Text() {
			if j.Trial != nil && j.Trial.Boot == "" { // this offer replaces an earlier one whose trial has not begun
				j.Trial = nil
			}
			return true
		}
		news = true
		if try {
			j.Trial = &trial{Text: settings.Text(), From: from}
			return true
		}
		j.Kept, j.Trial, j.Last = settings.Text(), nil, s.outcome(from, Kept, "")
		return true
	})
	return news && err == nil, errors.Join(err, mistake)
}

// IsNew reports whether a text differs from the last text that the source offered.
func (s *Store) IsNew(from Source, text string) (news bool, err error) {
	err = s.change(func(j *journal) bool { news = j.Seen[from] != digest(text); return false })
	return news, err
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// Begin returns the settings for this boot, and whether these settings are on trial. `boot` is the
// kernel's boot id. If an earlier boot began the trial and did not keep the settings, Begin drops
// them.
func (s *Store) Begin(boot string) (settings *netfile.Settings, tried bool, err error) {
	settings = &netfile.Settings{}
	if boot == "" {
		return settings, false, errors.New("network settings: the kernel's boot id is missing")
	}
	var former *netfile.Settings
	err = s.change(func(j *journal) bool {
		former = j.settings()
		settings = former
		t := j.Trial
		switch {
		case t == nil:
			return false
		case t.Boot != "" && t.Boot != boot:
			j.Trial, j.Last = nil, s.outcome(t.From, Dropped, "The machine restarted before it reached the hub with these settings.")
			return true
		}
		parsed, err := netfile.Parse([]byte(t.Text))
		if err != nil { // not expected, because Offer has parsed the text
			j.Trial, j.Last = nil, s.outcome(t.From, Refused, sentence(err.Error()))
			return true
		}
		news := t.Boot == ""
		t.Boot, settings, tried = boot, parsed, true
		return news
	})
	if err != nil && former != nil { // if the journal cannot record the trial, do not begin it
		return former, false, err
	}
	return settings, tried, err
}

// Keep makes the settings that are on trial permanent. Call Keep when the machine has reached the
// hub with these settings.
func (s *Store) Keep() error {
	return s.change(func(j *journal) bool {
		if j.Trial == nil || j.Trial.Boot == "" {
			return false
		}
		j.Kept, j.Trial, j.Last = j.Trial.Text, nil, s.outcome(j.Trial.From, Kept, "")
		return true
	})
}

// Drop ends a trial. Call Drop when the machine has not reached the hub in time. `reason` is a
// sentence for the owner.
func (s *Store) Drop(reason string) error {
	return s.change(func(j *journal) bool {
		if j.Trial == nil || j.Trial.Boot == "" {
			return false
		}
		j.Last, j.Trial = s.outcome(j.Trial.From, Dropped, reason), nil
		return true
	})
}

// Last returns the outcome of the last offer. The outcome is nil if no source has made an offer.
func (s *Store) Last() (last *Outcome, err error) {
	err = s.change(func(j *journal) bool { last = j.Last; return false })
	return last, err
}

// Settings returns the settings in force.
func (s *Store) Settings() (settings *netfile.Settings, err error) {
	err = s.change(func(j *journal) bool { settings = j.settings(); return false })
	return settings, err
}

// Report describes, for the owner, the settings in force, the settings on trial and the outcome of
// the last offer. It masks secrets.
func (s *Store) Report() (text string, err error) {
	err = s.change(func(j *journal) bool {
		text = "in force:" + masked(j.settings())
		if t := j.Trial; t != nil {
			if parsed, err := netfile.Parse([]byte(t.Text)); err == nil {
				text += "\ntried, from the " + string(t.From) + ":" + masked(parsed)
			}
		}
		if l := j.Last; l != nil {
			text += fmt.Sprintf("\nlast change: settings from the %s were %s at %s", l.From, l.Result, l.At.UTC().Format(time.RFC3339))
			if l.Reason != "" {
				text += ". " + l.Reason
			}
		}
		return false
	})
	return text + "\n", err
}

func masked(s *netfile.Settings) string {
	if s.Empty() {
		return " automatic"
	}
	return "\n  " + strings.Join(s.Masked(), "\n  ")
}

func sentence(text string) string { return strings.TrimSuffix(text, ".") + "." }

func (s *Store) outcome(from Source, r Result, reason string) *Outcome {
	now := time.Now
	if s.Now != nil {
		now = s.Now
	}
	return &Outcome{from, r, reason, now().UTC().Truncate(time.Second)}
}

// The method `settings` returns the settings in force. If the journal's text is not valid, it
// returns no settings, so that the network configures the machine. Offer stores only valid text.
func (j *journal) settings() *netfile.Settings {
	s, err := netfile.Parse([]byte(j.Kept))
	if err != nil {
		return &netfile.Settings{}
	}
	return s
}

// change reads the journal, calls `f`, and writes the journal if `f` returns true. A lock allows
// one process at a time.
func (s *Store) change(f func(*journal) bool) error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return fmt.Errorf("network settings: making the folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(s.Dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("network settings: locking the journal: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("network settings: locking the journal: %w", err)
	}
	j, err := s.read()
	if err != nil {
		return err
	}
	if !f(j) {
		return nil
	}
	return s.write(j)
}

func (s *Store) read() (*journal, error) {
	j := &journal{Version: 1}
	b, err := os.ReadFile(filepath.Join(s.Dir, journalFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("network settings: reading the journal: %w", err)
	case len(b) > maxJournal:
		return nil, fmt.Errorf("network settings: the journal has %d bytes; at most %d are allowed", len(b), maxJournal)
	default:
		if err := json.Unmarshal(b, j); err != nil {
			return nil, fmt.Errorf("network settings: the journal is not valid JSON: %w", err)
		}
		if j.Version != 1 {
			return nil, fmt.Errorf("network settings: the journal has the unknown version %d; this system supports version 1", j.Version)
		}
	}
	if j.Seen == nil {
		j.Seen = map[Source]string{}
	}
	return j, nil
}

// write replaces the journal atomically and flushes it.
func (s *Store) write(j *journal) error {
	b, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return err
	}
	if s.before != nil {
		s.before()
	}
	if err := diskfile.Replace(filepath.Join(s.Dir, journalFile), append(b, '\n'), s.before); err != nil {
		return fmt.Errorf("network settings: writing the journal: %w", err)
	}
	return nil
}
