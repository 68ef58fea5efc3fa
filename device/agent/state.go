package agent

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"gangway/device/agent/revision"
	"gangway/device/identity"
	"gangway/internal/diskfile"
)

// Phase is the phase of onboarding.
type Phase string

// The phases of onboarding, in order. The package comment explains them.
const (
	PhaseNew       Phase = "new"
	PhaseRequested Phase = "requested"
	PhaseAnswered  Phase = "answered"
	PhaseActive    Phase = "active"
	PhaseRemoved   Phase = "removed" // the hub no longer accepts the device; see State.Removed
)

// State is the device's state, as stored in the file state.json. The state contains no secret.
type State struct {
	Phase     Phase  `json:"phase"`
	DeviceID  string `json:"device-id,omitempty"`
	Nick      string `json:"nick,omitempty"`
	Owner     string `json:"owner,omitempty"` // prn
	OwnerNick string `json:"owner-nick,omitempty"`
	Hub       string `json:"hub,omitempty"`
	HubName   string `json:"hub-name,omitempty"`
	HubCA     string `json:"hub-ca,omitempty"`
	// Addresses contains the addresses of the hub that the agent uses. While the machine is not
	// onboarded, they may be the addresses of another hub than the one in the fields Hub and
	// HubName. Afterwards, Hub is the first of these addresses, the one in use.
	Addresses *Addresses `json:"addresses,omitempty"`
	TokenID   string     `json:"token-id,omitempty"`
	TPM       TPM        `json:"tpm"`
	EK        string     `json:"ek,omitempty"` // template of the endorsement key
	// EKSHA256 is the SHA-256 of the EK's SubjectPublicKeyInfo, in hexadecimal. The owner compares
	// it with the hash that the hub shows before approving the device.
	EKSHA256 string `json:"ek-sha256,omitempty"`
	Key      string `json:"key,omitempty"` // algorithm of the IDevID key, for people
	// Algorithm is the algorithm of the IDevID key, which the agent derives in the TPM again at
	// each start.
	Algorithm    identity.Algorithm `json:"algorithm,omitempty"`
	RoundTrips   int                `json:"round-trips"` // onboarding requests sent
	OnboardingMS int64              `json:"onboarding-ms,omitempty"`
	Onboarded    time.Time          `json:"onboarded,omitzero"`
	// Removed is the reason why the hub no longer accepts the device: "revoked" (the owner deleted
	// or denied it), "superseded" (the same TPM has onboarded again) or "unknown" (the hub has no
	// record of it). RemovedAt is the time when the agent learned this reason.
	Removed   string    `json:"removed,omitempty"`
	RemovedAt time.Time `json:"removed-at,omitzero"`
	// Returned is the time when the device last onboarded again by itself.
	Returned time.Time `json:"returned,omitzero"`
	// Former is the state of the active device before it began to onboard again. It is nil when no
	// such onboarding is in progress.
	Former *State `json:"former,omitempty"`
	// Boot is the hub's verdict on the last boot measurement: "matches",
	// "changed", "nothing-measured", "refused"; or "unmeasured" if the TPM's quote
	// failed.
	Boot string `json:"boot,omitempty"`
	// Claim is the address of the web page on which a person claims a machine without a join token.
	// ClaimWords are the letters on the machine's screen, such as XXXX-XXXX-XXXX, that the person
	// compares with the letters on that page. Neither the address nor the letters are secret.
	Claim      string `json:"claim,omitempty"`
	ClaimWords string `json:"claim-words,omitempty"`
	// Waiting is one line of text that says what the agent is waiting for, or why its last attempt
	// failed.
	Waiting  string    `json:"waiting,omitempty"`
	LastSeen time.Time `json:"last-report,omitzero"` // time when the hub last accepted a report
	// Revision is the number of the running revision. It is not in state.json: ReadState reads it
	// from the revision follower's journal.
	Revision string `json:"revision,omitempty"`
	// Answer is the sentence that Ask returned. It is not in state.json.
	Answer string `json:"answer,omitempty"`
	Step   string `json:"step,omitempty"`
}

// TPM describes the machine's TPM. The hub read this description from the EK certificate and the
// attestation.
type TPM struct {
	Manufacturer string `json:"manufacturer,omitempty"`
	Model        string `json:"model,omitempty"`
	Firmware     string `json:"firmware,omitempty"`
}

const (
	stateFile    = "state.json"
	requestFile  = "request.bin"
	replyFile    = "reply.json"
	identityFile = "identity.pem" // the IDevID certificate and the certificate of its issuer
	aikFile      = "aik.pem"      // the AIK certificate, and the certificate of its issuer
	lockFile     = "lock"
	trailFolder  = "trail"
)

// ReadState reads the state in a folder, and the revision follower's status. It does not lock the
// folder.
func ReadState(dir string) (*State, error) {
	s, err := (&folder{path: dir}).read()
	if err != nil {
		return &s, err
	}
	status, err := revision.ReadStatus(filepath.Join(dir, trailFolder), s.DeviceID)
	s.Revision = status.Revision
	if status.Step != "" {
		s.Step = "revision " + status.Step + ": " + status.Phase
	}
	return &s, err
}

// folder is the state folder, mode 0700. At most one agent holds its lock.
type folder struct {
	path string
	lock *os.File
}

// ErrInUse means that another agent has the state folder's lock.
var ErrInUse = errors.New("agent: another agent is using the state folder")

func openFolder(path string) (*folder, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("agent: state folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("agent: state folder: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("%w (%s); stop that agent first", ErrInUse, path)
	}
	return &folder{path, lock}, nil
}

// close unlocks the folder explicitly. Closing the file is not enough, because a program that
// another goroutine is starting may have a copy of the file descriptor, and the copy would keep the
// lock.
func (f *folder) close() error {
	return errors.Join(syscall.Flock(int(f.lock.Fd()), syscall.LOCK_UN), f.lock.Close())
}

func (f *folder) read() (State, error) {
	b, err := os.ReadFile(filepath.Join(f.path, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return State{Phase: PhaseNew}, nil
	}
	if err != nil {
		return State{}, fmt.Errorf("agent: %w", err)
	}
	var s State
	if err := json.Unmarshal(b, &s); err != nil {
		return State{}, fmt.Errorf("agent: %s/%s is damaged; remove the folder and onboard again: the machine stays the same device, because it has the same TPM: %w", f.path, stateFile, err)
	}
	return s, nil
}

func (f *folder) load(name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(f.path, name))
	if err != nil {
		return nil, fmt.Errorf("agent: %w. To create the file again, run 'gangway-agent onboard --again --token-file FILE'; the machine stays the same device, because it has the same TPM", err)
	}
	return b, nil
}

// write replaces a file atomically. After a crash, the file has either its old bytes or its new
// bytes.
func (f *folder) write(name string, content []byte) error {
	if err := diskfile.Replace(filepath.Join(f.path, name), content, nil); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	return nil
}

// save writes a file and then the state that refers to it, in this order.
func (f *folder) save(name string, content []byte, s State) error {
	if err := f.write(name, content); err != nil {
		return err
	}
	return f.saveState(s)
}

func (f *folder) saveState(s State) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return f.write(stateFile, append(b, '\n'))
}

// reset writes a new state, and then removes the old state's files. If the agent is killed in
// between, files of the old state may be left over. They are harmless, because the new state does
// not refer to them.
func (f *folder) reset(s State) error {
	if err := f.saveState(s); err != nil {
		return err
	}
	files := []string{requestFile, replyFile}
	if s.Former == nil {
		files = append(files, identityFile, aikFile)
	}
	return f.remove(files...)
}

func (f *folder) activate(c *certificates, s State) error {
	for name, ders := range map[string][][]byte{
		identityFile: c.chain(),
		aikFile:      {c.iak.Raw, c.aca.Raw},
	} {
		var text []byte
		for _, der := range ders {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		if err := f.write(name, text); err != nil {
			return err
		}
	}
	if err := f.saveState(s); err != nil {
		return err
	}
	return f.remove(requestFile, replyFile)
}

func (f *folder) certificates(hubCA string) (*certificates, error) {
	identity, err := f.load(identityFile)
	if err != nil {
		return nil, err
	}
	aik, err := f.load(aikFile)
	if err != nil {
		return nil, err
	}
	return parseCertificates(append(identity, aik...), hubCA)
}

func (f *folder) remove(names ...string) error {
	var errs error
	for _, name := range names {
		if err := os.Remove(filepath.Join(f.path, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = errors.Join(errs, err)
		}
	}
	return errs
}
