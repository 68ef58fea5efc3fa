package revision

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// errDisk marks errors of the device's own disk. The journal in the memory is
// the one on the disk, so what failed is done again.
var errDisk = errors.New("the device's disk")

func diskError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errDisk, err)
}

// phase is how far a step has come. Each is in the journal before what belongs
// to it is begun.
type phase string

const (
	queued         phase = "queued"          // to download
	installing     phase = "installing"      // the hook's install is called, again if need be
	rebooting      phase = "rebooting"       // installed; the machine is to start anew
	inTest         phase = "testing"         // the hook's test is called, again if need be
	committing     phase = "committing"      // tested; the hook's commit is called, again if need be
	rollingBack    phase = "rolling back"    // the hook's rollback is called, again if need be
	rebootingAfter phase = "rebooting after" // rolled back; the machine is to start anew
	ended          phase = "ended"           // the outcome is to be reported
)

// revision is a state of the trail.
type revision struct {
	Rev int    `json:"rev"`
	Sum string `json:"sum"` // SHA-256 of its compact text
}

// folder is its name among the revisions: two states may have had one number.
func (r revision) folder() string { return fmt.Sprintf("%d-%.16s", r.Rev, r.Sum) }

// work is the step that is under way.
type work struct {
	revision
	Phase   phase   `json:"phase"`
	Tries   int     `json:"tries,omitempty"`  // calls of the hook that were begun in this phase
	Call    string  `json:"call,omitempty"`   // names the hook's processes of the last call
	BootID  string  `json:"boot,omitempty"`   // of the machine's start before the reboot
	Passed  bool    `json:"passed,omitempty"` // the test
	Outcome outcome `json:"outcome,omitempty"`
	Reason  string  `json:"reason,omitempty"`
}

// outcome is a status that ends a step.
type outcome string

const (
	done   outcome = "DONE"
	failed outcome = "ERROR"
	wontGo outcome = "WONTGO"
)

// journal is journal.json.
type journal struct {
	Device  string    `json:"device"`
	Begun   bool      `json:"begun"` // the hub has a trail
	Current *revision `json:"current,omitempty"`
	Former  *revision `json:"former,omitempty"` // what ran before
	Step    *work     `json:"step,omitempty"`
}

// readJournal reads it. Another device's (the machine was onboarded anew, with
// another hub) is not gone on with.
func readJournal(path, device string) (journal, error) {
	fresh := journal{Device: device}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fresh, nil
	}
	if err != nil {
		return fresh, fmt.Errorf("trail: %w", err)
	}
	var j journal
	if err := json.Unmarshal(b, &j); err != nil {
		return fresh, fmt.Errorf("trail: %s is damaged; remove it, and the device takes the next revision without knowing the one that runs: %w", path, err)
	}
	if j.Device != device {
		return fresh, nil
	}
	return j, nil
}

// ReadStatus reads the status of a follower's folder from outside. A folder
// that is not there has an empty one.
func ReadStatus(dir, device string) (Status, error) {
	j, err := readJournal(filepath.Join(dir, "journal.json"), device)
	if err != nil || !j.Begun {
		return Status{}, err
	}
	return j.status(), nil
}

func (j *journal) status() Status {
	s := Status{Phase: "idle"}
	if j.Current != nil {
		s.Revision = fmt.Sprint(j.Current.Rev)
	}
	if j.Step != nil {
		s.Phase, s.Step = string(j.Step.Phase), fmt.Sprint(j.Step.Rev)
	}
	return s
}

// save makes j the journal, durably, before it counts.
func (f *Follower) save(j journal) error {
	b, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return err
	}
	if err := replace(f.journalPath(), append(b, '\n')); err != nil {
		return diskError(err)
	}
	f.journal = j
	f.publish()
	return nil
}

// change saves the journal with the step changed.
func (f *Follower) change(edit func(w *work)) error {
	j := f.journal
	w := *j.Step
	edit(&w)
	j.Step = &w
	return f.save(j)
}

// enter goes to the next phase.
func (f *Follower) enter(p phase, edit func(w *work)) error {
	return f.change(func(w *work) {
		w.Phase, w.Tries, w.Call, w.BootID = p, 0, "", ""
		if edit != nil {
			edit(w)
		}
	})
}

// replace writes a file so that after a crash the old or the new content is
// there, whole.
func replace(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return err
	}
	return flush(filepath.Dir(path))
}

// flush makes the names in a folder durable.
func flush(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// patience is the time between tries: doubled from a second to a minute, each
// drawn from its upper half.
type patience struct{ wait time.Duration }

func newPatience() *patience { return &patience{time.Second} }

func (p *patience) next() time.Duration {
	d := p.wait/2 + rand.N(p.wait/2)
	p.wait = min(2*p.wait, time.Minute)
	return d
}

// jitter spreads a fleet.
func jitter(d time.Duration) time.Duration { return d*9/10 + rand.N(d/5+1) }
