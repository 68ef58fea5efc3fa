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

	"gangway/internal/diskfile"
)

// SystemPath is the path of the system among a revision's files. A revision without this file
// does not change the system.
const SystemPath = "gangway/system.efi"

// ExitReboot is the hook's exit code for "done; the machine must restart" (docs/agent.md).
const ExitReboot = 10

// Hook installs revisions. The agent calls it as its hook (docs/agent.md).
type Hook struct {
	ESP ESP
	// Dir is a folder on the data partition for the hook's own state.
	Dir string
	// Volatile is a folder that the machine empties at each boot.
	Volatile string
	// Restart restarts the machine. It returns only if the restart fails.
	Restart func() error
	// Synchronous, if set, switches synchronous writes to the EFI system partition on or off. The
	// hook switches synchronous writes off while it writes a slot, because writing would otherwise
	// take minutes. The hook flushes the slot before each step that requires this.
	Synchronous func(bool)
	// BindKey, if set, binds the key of an encrypted disk to the system in a slot. The hook calls
	// it before that system starts for the first time.
	BindKey func(Slot) error
	// Sleep is time.Sleep by default. The hook uses it to wait until another process has removed
	// the attempt counter from the name of a slot's file.
	Sleep func(time.Duration)
	// Out receives sentences for the owner.
	Out io.Writer
}

// trial describes the last system that the hook wrote to a slot. The hook stores it in Dir.
type trial struct {
	Revision string `json:"revision"` // name of the revision's folder
	Slot     string `json:"slot"`     // slot to which the hook wrote the system
	SHA256   string `json:"sha256"`
}

func (t trial) slot() Slot { return slotOf("gangway-" + t.Slot + ".efi") }

// Do runs one of the hook's verbs, such as "install", for the revision in the folder `revision`,
// and returns the exit code. The agent can repeat a call that was interrupted.
func (h *Hook) Do(verb, revision string) (code int) {
	verbs := map[string]func(string) (int, error){
		"install": h.install, "reboot": h.reboot, "test": h.test, "commit": h.commit, "rollback": h.rollback,
	}
	do := verbs[verb]
	if do == nil {
		h.say("Unknown verb %q.", verb)
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

// The function `open` opens and hashes the system of a revision. If the revision has no system, f
// is nil.
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
		return nil, 0, "", fmt.Errorf("%s is not a regular file", SystemPath)
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

// Trial returns the running slot, the default slot, and whether the running slot is on trial. A
// slot is on trial if the hook wrote it last and has not committed it. A slot that runs only
// because the default slot does not boot is not on trial.
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

// install writes a revision's system to the slot that is not the default, and makes the machine
// boot that slot once.
func (h *Hook) install(revision string) (int, error) {
	f, size, sum, err := open(revision)
	if err != nil {
		return 0, err
	}
	if f == nil {
		h.say("The revision has no %s: the system is not changed.", SystemPath)
		return 0, nil
	}
	defer f.Close()
	if runs, err := h.runs(sum); err != nil || runs {
		if runs {
			h.say("The revision's system is running already.")
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
		h.say("Slot %s already has the system.", to)
		return h.try(to)
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
	return h.try(to)
}

// try makes the machine boot a slot, at the next boot only. First it binds the disk's key to the
// slot's system, because a system that cannot open the disk must not start.
func (h *Hook) try(to Slot) (int, error) {
	if h.BindKey != nil {
		if err := h.BindKey(to); err != nil {
			return 0, err
		}
	}
	return ExitReboot, h.ESP.Try(to)
}

// target returns the slot to write to. This is never the default slot, because the machine falls
// back to the default slot. If the default slot did not boot and the other slot runs for that
// reason, target first makes the running slot the default.
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
	for range 60 { // after an installation's first boot, another process soon removes the attempt counter from the slot's file name
		if _, err = os.Stat(h.ESP.path(keep)); err == nil {
			return keep.Other(), nil
		}
		h.sleep(time.Second)
	}
	return None, fmt.Errorf("the machine would fall back to slot %s, but that slot has not completed its first boot; try again later: %w", keep, err)
}

func (h *Hook) sleep(d time.Duration) {
	if h.Sleep != nil {
		h.Sleep(d)
		return
	}
	time.Sleep(d)
}

// reboot restarts the machine. If the revision's system is on trial, the machine then starts that
// system.
func (h *Hook) reboot(revision string) (int, error) {
	if t, ok := h.trialOf(revision); ok {
		if sum, err := h.ESP.Sum(t.slot()); err == nil && sum == t.SHA256 { // not rolled back
			if err := h.ESP.Try(t.slot()); err != nil {
				return 0, err
			}
		}
	}
	return 0, h.Restart()
}

// The method `runs` reports whether the running system has the SHA-256 `sum`.
func (h *Hook) runs(sum string) (bool, error) {
	s, err := h.ESP.Running()
	if err != nil {
		return false, err
	}
	if _, err := os.Stat(h.marked(s)); err == nil {
		return false, nil // the slot's content has changed since the slot booted
	}
	have, err := h.ESP.Sum(s)
	if err != nil || have == "" { // during the first boot the file's name has an attempt counter, so Sum does not find the file
		return false, err
	}
	return have == sum, nil
}

// test checks that the running system is the revision's system.
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
	if !runs && h.ESP.Firmware.StickNoted() {
		return 0, fmt.Errorf("the machine was started from an installer stick during the trial of the new system, and fell back to slot %s; take the stick out of the machine, and post the revision again", s)
	}
	if !runs {
		return 0, fmt.Errorf("the new system did not start or did not keep running; the machine fell back to slot %s", s)
	}
	h.say("The new system runs, from slot %s.", s)
	return 0, nil
}

// commit makes the running system the default.
func (h *Hook) commit(revision string) (int, error) {
	if code, err := h.test(revision); err != nil || code != 0 {
		return code, err
	}
	if t, ok := h.trialOf(revision); ok {
		return 0, h.ESP.SetDefault(t.slot())
	}
	return 0, nil
}

// rollback restores the previous system, if the revision changed the system.
func (h *Hook) rollback(revision string) (int, error) {
	t, ok := h.trialOf(revision)
	if !ok {
		h.say("The revision did not change the system.")
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
		h.say("%v; this does no harm, because slot %s is empty.", err, t.slot())
	}
	if running == t.slot() {
		return ExitReboot, nil
	}
	h.say("Slot %s is running.", running)
	return 0, nil
}

func (h *Hook) trialPath() string { return filepath.Join(h.Dir, "trial.json") }

// The method `last` returns the record of the last system that the hook wrote.
func (h *Hook) last() (t trial, err error) {
	b, err := os.ReadFile(h.trialPath())
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	if err == nil && t.slot() == None {
		err = fmt.Errorf("%s does not name a slot", h.trialPath())
	}
	return t, err
}

// trialOf returns the record of the last system that the hook wrote. `ok` reports whether that
// system belongs to the revision.
func (h *Hook) trialOf(revision string) (t trial, ok bool) {
	t, err := h.last()
	return t, err == nil && t.Revision == filepath.Base(revision)
}

// remember replaces the hook's record atomically and flushes the record to the disk.
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
	return diskfile.Replace(h.trialPath(), b, func() { h.ESP.changing("remember slot %s", t.Slot) })
}

// mark notes in the folder Volatile that the content of a slot has changed since the machine booted
// that slot.
func (h *Hook) mark(s Slot) error {
	if err := os.MkdirAll(h.Volatile, 0o700); err != nil {
		return err
	}
	return os.WriteFile(h.marked(s), nil, 0o600)
}

func (h *Hook) marked(s Slot) string { return filepath.Join(h.Volatile, "written-"+s.String()) }
