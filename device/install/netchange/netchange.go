// Package netchange keeps the network settings of an installed machine, and has
// new ones tried before they are kept.
//
//	offered ──> tried for one start ──> kept    the hub was reached
//	                      └───────────> dropped it was not; the former ones are in force
//
// The journal is one file, which is replaced whole: a power cut at any moment
// leaves the state before a change, or behind it. That a trial has begun is in
// the journal before its settings are used, so no start tries them twice.
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

	"golang.org/x/sys/unix"
)

// Source is where offered settings come from.
type Source string

// The sources.
const (
	Stick Source = "stick" // that the machine was installed from, or started from again
	Hub   Source = "hub"   // what the owner has set there
)

// Result is how an offer ended.
type Result string

// The results.
const (
	Kept    Result = "kept"
	Dropped Result = "dropped" // the hub was not reached with it
	Refused Result = "refused" // it has a mistake
)

// Outcome is what became of the last offer.
type Outcome struct {
	From   Source    `json:"from"`
	Result Result    `json:"result"`
	Reason string    `json:"reason,omitempty"` // a sentence, without secrets
	At     time.Time `json:"at"`
}

// trial are settings that are to be tried, or are tried.
type trial struct {
	Text string `json:"text"`
	From Source `json:"from"`
	// Boot is the kernel's boot id of the start that tries them; empty: none has.
	Boot string `json:"boot,omitempty"`
}

type journal struct {
	Version int    `json:"version"` // 1
	Kept    string `json:"kept"`    // the settings' file; empty: none
	Trial   *trial `json:"trial,omitempty"`
	// Seen are the SHA-256 of what each source has offered last, in lower-case
	// hexadecimal: each offer is looked at once.
	Seen map[Source]string `json:"seen,omitempty"`
	Last *Outcome          `json:"last,omitempty"`
}

// Store is a folder with the journal. Several processes may use it.
type Store struct {
	Dir string
	Now func() time.Time // nil: time.Now
	// before, if set, is called before each change. Tests cut the power there.
	before func()
}

const (
	journalFile = "journal.json"
	lockFile    = "lock"
	maxJournal  = 256 << 10 // bytes
)

// Offer takes settings that a source has. A text that this source has offered
// last is nothing new, and neither are the settings in force. With try they are
// tried at the next start; otherwise they are kept at once, for where nothing
// else has ever worked. It reports whether there is something new. A mistake in
// the text is an error, and remembered as the outcome.
func (s *Store) Offer(from Source, text string, try bool) (news bool, err error) {
	var mistake error
	err = s.change(func(j *journal) bool {
		seen := digest(text)
		if j.Seen[from] == seen {
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
			if j.Trial != nil && j.Trial.Boot == "" { // it was thought better of
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

// News reports whether a source has offered something else than this last.
func (s *Store) News(from Source, text string) (news bool, err error) {
	err = s.change(func(j *journal) bool { news = j.Seen[from] != digest(text); return false })
	return news, err
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// Begin returns the settings for this start of the machine, whose boot id is
// given, and whether they are only tried. A trial that another start has begun
// and that was not kept is over.
func (s *Store) Begin(boot string) (settings *netfile.Settings, tried bool, err error) {
	settings = &netfile.Settings{}
	if boot == "" {
		return settings, false, errors.New("network settings: the boot id is needed")
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
			j.Trial, j.Last = nil, s.outcome(t.From, Dropped, "The machine started again before it had reached the hub with them.")
			return true
		}
		parsed, err := netfile.Parse([]byte(t.Text))
		if err != nil { // it was parsed when it was offered
			j.Trial, j.Last = nil, s.outcome(t.From, Refused, sentence(err.Error()))
			return true
		}
		news := t.Boot == ""
		t.Boot, settings, tried = boot, parsed, true
		return news
	})
	if err != nil && former != nil { // a trial that is not in the journal must not begin
		return former, false, err
	}
	return settings, tried, err
}

// Keep makes the settings that are tried those in force: the hub was reached.
func (s *Store) Keep() error {
	return s.change(func(j *journal) bool {
		if j.Trial == nil || j.Trial.Boot == "" {
			return false
		}
		j.Kept, j.Trial, j.Last = j.Trial.Text, nil, s.outcome(j.Trial.From, Kept, "")
		return true
	})
}

// Drop ends a trial: the hub was not reached. The reason is a sentence.
func (s *Store) Drop(reason string) error {
	return s.change(func(j *journal) bool {
		if j.Trial == nil || j.Trial.Boot == "" {
			return false
		}
		j.Last, j.Trial = s.outcome(j.Trial.From, Dropped, reason), nil
		return true
	})
}

// Last is what became of the last offer; nil: there was none.
func (s *Store) Last() (last *Outcome, err error) {
	err = s.change(func(j *journal) bool { last = j.Last; return false })
	return last, err
}

// Report says for the owner what is in force, what is tried, and what became of
// the last offer. Secrets are masked.
func (s *Store) Report() (text string, err error) {
	err = s.change(func(j *journal) bool {
		text = "in force:" + masked(j.settings())
		if t := j.Trial; t != nil {
			if parsed, err := netfile.Parse([]byte(t.Text)); err == nil {
				text += "\ntried, from the " + string(t.From) + ":" + masked(parsed)
			}
		}
		if l := j.Last; l != nil {
			text += fmt.Sprintf("\nlast change: from the %s, %s at %s", l.From, l.Result, l.At.UTC().Format(time.RFC3339))
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

// settings are those in force. A text that cannot be read, which was read when
// it was kept, leaves the network to itself.
func (j *journal) settings() *netfile.Settings {
	s, err := netfile.Parse([]byte(j.Kept))
	if err != nil {
		return &netfile.Settings{}
	}
	return s
}

// change reads the journal, changes it, and writes it if f says so. One process
// does at a time.
func (s *Store) change(f func(*journal) bool) error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return fmt.Errorf("network settings: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(s.Dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("network settings: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("network settings: %w", err)
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
		return nil, fmt.Errorf("network settings: %w", err)
	case len(b) > maxJournal:
		return nil, fmt.Errorf("network settings: the journal has %d bytes", len(b))
	default:
		if err := json.Unmarshal(b, j); err != nil {
			return nil, fmt.Errorf("network settings: the journal cannot be read: %w", err)
		}
		if j.Version != 1 {
			return nil, fmt.Errorf("network settings: the journal has version %d; this system knows 1", j.Version)
		}
	}
	if j.Seen == nil {
		j.Seen = map[Source]string{}
	}
	return j, nil
}

// write replaces the journal, durably.
func (s *Store) write(j *journal) error {
	b, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return err
	}
	if s.before != nil {
		s.before()
	}
	f, err := os.CreateTemp(s.Dir, ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("network settings: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(b, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("network settings: %w", err)
	}
	if s.before != nil {
		s.before()
	}
	if err := os.Rename(f.Name(), filepath.Join(s.Dir, journalFile)); err != nil {
		return fmt.Errorf("network settings: %w", err)
	}
	d, err := os.Open(s.Dir)
	if err != nil {
		return fmt.Errorf("network settings: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
