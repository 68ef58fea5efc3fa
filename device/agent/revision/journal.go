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

	"gangway/internal/diskfile"
)

// errDisk marks an error of the device's disk. After such an error, the journals in memory and on
// the disk still agree, so the follower can repeat the failed action.
var errDisk = errors.New("the device's disk")

func diskError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errDisk, err)
}

// phase is the phase of a revision's installation. The journal records each phase before the
// phase's action begins.
type phase string

const (
	queued         phase = "queued"          // accepted, not yet downloaded
	installing     phase = "installing"      // calling the hook's install, repeatedly if needed
	rebooting      phase = "rebooting"       // installed; the machine must reboot
	inTest         phase = "testing"         // calling the hook's test, repeatedly if needed
	committing     phase = "committing"      // tested; calling the hook's commit, repeatedly if needed
	rollingBack    phase = "rolling back"    // failed; calling the hook's rollback, repeatedly if needed
	rebootingAfter phase = "rebooting after" // rolled back; the machine must reboot
	ended          phase = "ended"           // the outcome is known and must be reported to the hub
)

// revision is a revision of the trail, as the journal records it.
type revision struct {
	Rev int    `json:"rev"`
	Sum string `json:"sum"` // SHA-256 of the state's compact text
}

// folder returns the name of the revision's folder. The name contains a part of the state's hash,
// because the owner may replace the state of a revision without changing its number.
func (r revision) folder() string { return fmt.Sprintf("%d-%.16s", r.Rev, r.Sum) }

// work describes the installation of a new revision: its phase, and how often the phase was tried.
type work struct {
	revision
	Phase   phase   `json:"phase"`
	Tries   int     `json:"tries,omitempty"`  // how often a call of the hook was started in this phase
	Call    string  `json:"call,omitempty"`   // value of callMark in the last call's environment
	BootID  string  `json:"boot,omitempty"`   // boot id before the reboot for which the device waits
	Passed  bool    `json:"passed,omitempty"` // the hook's test succeeded
	Outcome outcome `json:"outcome,omitempty"`
	Reason  string  `json:"reason,omitempty"`
}

// outcome is the final status of a revision.
type outcome string

const (
	done   outcome = "DONE"
	failed outcome = "ERROR"
	wontGo outcome = "WONTGO"
)

// journal is the content of journal.json.
type journal struct {
	Device  string    `json:"device"`
	Begun   bool      `json:"begun"` // the hub has a trail
	Current *revision `json:"current,omitempty"`
	Former  *revision `json:"former,omitempty"` // the revision that ran before Current
	Step    *work     `json:"step,omitempty"`
}

// readJournal reads the journal. If the journal is for another device, because the machine has
// onboarded again and has a new id, readJournal returns a new journal.
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
		return fresh, fmt.Errorf("trail: %s is damaged, so the running revision is unknown: if you remove the file, the device accepts the next revision: %w", path, err)
	}
	if j.Device != device {
		return fresh, nil
	}
	return j, nil
}

// ReadStatus reads the status from the follower's folder `dir`. The follower may run in another
// process. The status is empty if `dir` has no journal of this device.
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

// save writes the journal `j` to the disk. If that succeeds, `j` also becomes the journal in
// memory.
func (f *Follower) save(j journal) error {
	b, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return err
	}
	if err := diskfile.Replace(f.journalPath(), append(b, '\n'), nil); err != nil {
		return diskError(err)
	}
	f.journal = j
	f.publish()
	return nil
}

// change calls `edit` to change the journal's record of the present installation, and saves the
// journal.
func (f *Follower) change(edit func(w *work)) error {
	j := f.journal
	w := *j.Step
	edit(&w)
	j.Step = &w
	return f.save(j)
}

// enter begins the phase `p`: it resets the count of tries and saves the journal. If `edit` is not
// nil, enter calls it before it saves, so that `edit` can make other changes.
func (f *Follower) enter(p phase, edit func(w *work)) error {
	return f.change(func(w *work) {
		w.Phase, w.Tries, w.Call, w.BootID = p, 0, "", ""
		if edit != nil {
			edit(w)
		}
	})
}

// The type `patience` gives the pauses between retries. The nominal pause doubles from one second
// up to one minute. The actual pause is a random time between half of the nominal pause and the
// whole nominal pause.
type patience struct{ wait time.Duration }

func newPatience() *patience { return &patience{time.Second} }

func (p *patience) next() time.Duration {
	d := p.wait/2 + rand.N(p.wait/2)
	p.wait = min(2*p.wait, time.Minute)
	return d
}

// jitter changes a pause by up to a tenth at random, so that a fleet's requests spread out.
func jitter(d time.Duration) time.Duration { return d*9/10 + rand.N(d/5+1) }
