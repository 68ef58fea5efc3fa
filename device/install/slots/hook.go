package slots

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// SystemPath is where a revision has a system, among its files. A revision
// without one leaves the system as it is.
const SystemPath = "gangway/system.efi"

// ExitReboot is the hook's exit code for "done, and the machine must start
// anew" (docs/agent.md).
const ExitReboot = 10

// Hook installs revisions: it is what the agent calls (docs/agent.md).
type Hook struct {
	ESP ESP
	// Dir is a folder on the data partition, for what the hook must remember.
	Dir string
	// Volatile is a folder that is empty after each start of the machine.
	Volatile string
	// Restart starts the machine anew. It returns only if that fails.
	Restart func() error
	// Synchronous, if set, is told whether the EFI system partition shall be
	// written to at once. A slot is flushed where it matters; block by block
	// it would take minutes.
	Synchronous func(bool)
	// Sleep waits, for what has to happen first. Default: time.Sleep.
	Sleep func(time.Duration)
	// Out gets sentences for the owner.
	Out io.Writer
}

// trial is what the hook remembers of the last system that it wrote.
type trial struct {
	Revision string `json:"revision"` // the folder's name
	Slot     string `json:"slot"`     // that it was written to
	SHA256   string `json:"sha256"`
}

func (t trial) slot() Slot { return of("gangway-" + t.Slot + ".efi") }

// Do does what a verb asks for with the revision in a folder, and returns the
// exit code. Each verb may be called again after it was cut short anywhere.
func (h *Hook) Do(verb, revision string) (code int) {
	verbs := map[string]func(string) (int, error){
		"install": h.install, "reboot": h.reboot, "test": h.test, "commit": h.commit, "rollback": h.rollback,
	}
	do := verbs[verb]
	if do == nil {
		h.say("There is no verb %q.", verb)
		return 2
	}
	code, err := do(revision)
	if err != nil {
		h.say("%s: %v.", verb, err)
		return 1
	}
	return code
}

func (h *Hook) say(format string, args ...any) { fmt.Fprintf(h.Out, format+"\n", args...) }

// open opens a revision's system and hashes it. Without one, f is nil.
func open(revision string) (f *os.File, size int64, sum string, err error) {
	name := filepath.Join(revision, "files", SystemPath)
	info, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, "", nil
	}
	if err != nil {
		return nil, 0, "", err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, "", fmt.Errorf("%s is no file", SystemPath)
	}
	if f, err = os.Open(name); err != nil {
		return nil, 0, "", err
	}
	if sum, err = digest(f); err != nil {
		f.Close()
		return nil, 0, "", err
	}
	return f, info.Size(), sum, nil
}

// Trial says which slot runs, which one starts the next time, and whether the
// one that runs is only tried: it is the last that was written and not made
// permanent. A slot that runs since the default does not start is not tried.
func (h *Hook) Trial() (running, kept Slot, tried bool, err error) {
	if running, err = h.ESP.Running(); err != nil {
		return
	}
	if kept, err = h.ESP.Default(); err != nil {
		return
	}
	last, lost := h.last()
	return running, kept, running != kept && (lost != nil || last.slot() == running), nil
}

// install writes a revision's system to the slot that is not the default, to
// be tried.
func (h *Hook) install(revision string) (int, error) {
	f, size, sum, err := open(revision)
	if err != nil {
		return 0, err
	}
	if f == nil {
		h.say("There is no %s in it: the system stays as it is.", SystemPath)
		return 0, nil
	}
	defer f.Close()
	if runs, err := h.runs(sum); err != nil || runs {
		if runs {
			h.say("Its system runs already.")
		}
		return 0, err
	}
	if err := Check(f, size); err != nil {
		return 0, fmt.Errorf("%s: %w", SystemPath, err)
	}
	to, err := h.target()
	if err != nil {
		return 0, err
	}
	if err := h.ESP.Fits(to, size); err != nil {
		return 0, fmt.Errorf("%s: %w", SystemPath, err)
	}
	if err := h.remember(trial{filepath.Base(revision), to.String(), sum}); err != nil {
		return 0, err
	}
	if have, err := h.ESP.Sum(to); err == nil && have == sum {
		h.say("Slot %s holds it already.", to)
		return ExitReboot, h.ESP.Try(to)
	}
	if err := h.mark(to); err != nil {
		return 0, err
	}
	if h.Synchronous != nil {
		h.Synchronous(false)
		defer h.Synchronous(true)
	}
	if err := h.ESP.Write(to, f, size, sum); err != nil {
		return 0, fmt.Errorf("%s: %w", SystemPath, err)
	}
	h.say("Written to slot %s, %d MiB.", to, size>>20)
	return ExitReboot, h.ESP.Try(to)
}

// target is the slot that may be written to: not the default, to which the
// machine falls back. Where that did not start, and the other slot runs, that
// one is made the default first.
func (h *Hook) target() (Slot, error) {
	running, keep, tried, err := h.Trial()
	if err != nil {
		return None, err
	}
	if running != keep && !tried {
		if err := h.ESP.SetDefault(running); err != nil {
			return None, err
		}
		keep = running
	}
	for range 60 { // a first boot is about to be marked good
		if _, err = os.Stat(h.ESP.path(keep)); err == nil {
			return keep.Other(), nil
		}
		h.sleep(time.Second)
	}
	return None, fmt.Errorf("slot %s, which would be fallen back to, is not marked good: %w", keep, err)
}

func (h *Hook) sleep(d time.Duration) {
	if h.Sleep != nil {
		h.Sleep(d)
		return
	}
	time.Sleep(d)
}

// reboot starts the machine anew, into the trial if there is one.
func (h *Hook) reboot(revision string) (int, error) {
	if t, ok := h.trialOf(revision); ok {
		if sum, err := h.ESP.Sum(t.slot()); err == nil && sum == t.SHA256 { // and is not rolled back
			if err := h.ESP.Try(t.slot()); err != nil {
				return 0, err
			}
		}
	}
	return 0, h.Restart()
}

// runs says whether the system of a hash is the one that runs.
func (h *Hook) runs(sum string) (bool, error) {
	s, err := h.ESP.Running()
	if err != nil {
		return false, err
	}
	if _, err := os.Stat(h.marked(s)); err == nil {
		return false, nil // the slot was written to since it was started
	}
	have, err := h.ESP.Sum(s)
	if err != nil || have == "" { // under a counted name it is the first boot's
		return false, err
	}
	return have == sum, nil
}

// test says whether the revision's system is the one that runs.
func (h *Hook) test(revision string) (int, error) {
	f, _, sum, err := open(revision)
	if err != nil || f == nil {
		return 0, err
	}
	f.Close()
	runs, err := h.runs(sum)
	if err != nil {
		return 0, err
	}
	s, err := h.ESP.Running()
	if err != nil {
		return 0, err
	}
	if !runs {
		return 0, fmt.Errorf("the new system did not stay up: the machine fell back to slot %s", s)
	}
	h.say("It runs, from slot %s.", s)
	return 0, nil
}

// commit has the running system started from now on.
func (h *Hook) commit(revision string) (int, error) {
	if code, err := h.test(revision); err != nil || code != 0 {
		return code, err
	}
	if t, ok := h.trialOf(revision); ok {
		return 0, h.ESP.SetDefault(t.slot())
	}
	return 0, nil
}

// rollback has the system started that was before, if the revision brought
// another one.
func (h *Hook) rollback(revision string) (int, error) {
	t, ok := h.trialOf(revision)
	if !ok {
		h.say("The system stays as it is.")
		return 0, nil
	}
	running, err := h.ESP.Running()
	if err != nil {
		return 0, err
	}
	if err := h.ESP.SetDefault(t.slot().Other()); err != nil {
		return 0, err
	}
	if err := h.ESP.Remove(t.slot()); err != nil {
		return 0, err
	}
	if err := h.ESP.DoNotTry(); err != nil {
		h.say("%v; there is nothing more that it could start.", err)
	}
	if running == t.slot() {
		return ExitReboot, nil
	}
	h.say("Slot %s runs.", running)
	return 0, nil
}

func (h *Hook) trialPath() string { return filepath.Join(h.Dir, "trial.json") }

// last is what is remembered.
func (h *Hook) last() (t trial, err error) {
	b, err := os.ReadFile(h.trialPath())
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	if err == nil && t.slot() == None {
		err = fmt.Errorf("%s names no slot", h.trialPath())
	}
	return t, err
}

// trialOf is what is remembered, if it is of this revision.
func (h *Hook) trialOf(revision string) (t trial, ok bool) {
	t, err := h.last()
	return t, err == nil && t.Revision == filepath.Base(revision)
}

// remember replaces what is remembered, durably.
func (h *Hook) remember(t trial) error {
	if was, ok := h.trialOf(t.Revision); ok && was == t {
		return nil
	}
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(h.Dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(h.Dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	h.ESP.changing("remember slot %s", t.Slot)
	if err := os.Rename(f.Name(), h.trialPath()); err != nil {
		return err
	}
	d, err := os.Open(h.Dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// mark notes that a slot's content is not what was started from it.
func (h *Hook) mark(s Slot) error {
	if err := os.MkdirAll(h.Volatile, 0o700); err != nil {
		return err
	}
	return os.WriteFile(h.marked(s), nil, 0o600)
}

func (h *Hook) marked(s Slot) string { return filepath.Join(h.Volatile, "written-"+s.String()) }
