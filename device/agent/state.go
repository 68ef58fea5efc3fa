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
)

// Phase is how far onboarding has come.
type Phase string

// The phases, in order; see the package's comment.
const (
	PhaseNew       Phase = "new"
	PhaseRequested Phase = "requested"
	PhaseAnswered  Phase = "answered"
	PhaseActive    Phase = "active"
	PhaseRemoved   Phase = "removed" // the hub no longer lets the device in; see State.Removed
)

// State is state.json. There is no secret in it.
type State struct {
	Phase     Phase  `json:"phase"`
	DeviceID  string `json:"device-id,omitempty"`
	Nick      string `json:"nick,omitempty"`
	Owner     string `json:"owner,omitempty"` // prn
	OwnerNick string `json:"owner-nick,omitempty"`
	Hub       string `json:"hub,omitempty"`
	HubName   string `json:"hub-name,omitempty"`
	HubCA     string `json:"hub-ca,omitempty"`
	// Addresses are where the hub may be found; Hub is the one in use. They may
	// be of a hub that the machine has yet to join.
	Addresses *Addresses `json:"addresses,omitempty"`
	TokenID   string     `json:"token-id,omitempty"`
	TPM       TPM        `json:"tpm"`
	EK        string     `json:"ek,omitempty"` // template of the endorsement key
	// EKSHA256 is the SHA-256 of the EK's SubjectPublicKeyInfo, hexadecimal:
	// what an owner compares before approving.
	EKSHA256 string `json:"ek-sha256,omitempty"`
	Key      string `json:"key,omitempty"` // algorithm of the identity key
	// Algorithm is what the identity key is made again by.
	Algorithm    identity.Algorithm `json:"algorithm,omitempty"`
	RoundTrips   int                `json:"round-trips"` // onboarding requests sent
	OnboardingMS int64              `json:"onboarding-ms,omitempty"`
	Onboarded    time.Time          `json:"onboarded,omitzero"`
	// Removed is why the hub no longer lets the device in, and since when that
	// is known: "revoked" (its owner deleted it, or it was denied), "superseded"
	// (the TPM has onboarded again since), "unknown" (the hub has no record).
	Removed   string    `json:"removed,omitempty"`
	RemovedAt time.Time `json:"removed-at,omitzero"`
	// Returned is when the device last came back by itself after that.
	Returned time.Time `json:"returned,omitzero"`
	// Former is what the device was, while it onboards again.
	Former *State `json:"former,omitempty"`
	// Boot is what the hub said of the last measurement: "matches", "changed",
	// "nothing-measured"; "refused", or "unmeasured" where the TPM does not quote.
	Boot string `json:"boot,omitempty"`
	// Claim is the address that a person opens to take a machine without a join
	// token, and ClaimWords what they compare there. Neither is a secret.
	Claim      string `json:"claim,omitempty"`
	ClaimWords string `json:"claim-words,omitempty"`
	// Waiting says in one line what the agent is waiting for.
	Waiting  string    `json:"waiting,omitempty"`
	LastSeen time.Time `json:"last-report,omitzero"` // when the hub last took a report
	// Revision is what runs, and Step what is being done to get to another.
	// They are read from the trail's journal (ReadState), and not kept here.
	Revision string `json:"revision,omitempty"`
	// Answer is what the hub answered when it was asked just now (Ask).
	Answer string `json:"answer,omitempty"`
	Step   string `json:"step,omitempty"`
}

// TPM is what the hub read in the TPM's certificate and attestation.
type TPM struct {
	Manufacturer string `json:"manufacturer,omitempty"`
	Model        string `json:"model,omitempty"`
	Firmware     string `json:"firmware,omitempty"`
}

const (
	stateFile    = "state.json"
	requestFile  = "request.bin"
	replyFile    = "reply.json"
	identityFile = "identity.pem" // IDevID certificate and its issuer
	aikFile      = "aik.pem"      // AIK certificate and its issuer
	lockFile     = "lock"
	trailFolder  = "trail"
)

// ReadState reads the state of a folder, without its lock.
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

// folder is the state folder, mode 0700, held under a lock by one agent.
type folder struct {
	path string
	lock *os.File
}

// ErrInUse is a state folder that another agent holds.
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
		return nil, fmt.Errorf("%w (%s); stop it first", ErrInUse, path)
	}
	return &folder{path, lock}, nil
}

func (f *folder) close() error { return f.lock.Close() }

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
		return State{}, fmt.Errorf("agent: %s/%s is damaged; remove the folder and onboard again: the TPM makes it the same device: %w", f.path, stateFile, err)
	}
	return s, nil
}

func (f *folder) load(name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(f.path, name))
	if err != nil {
		return nil, fmt.Errorf("agent: %w. To make the file again, run 'gangway-agent onboard --again --token-file FILE': the TPM makes it the same device", err)
	}
	return b, nil
}

// write replaces a file so that after a crash either the old or the new
// content is there, whole.
func (f *folder) write(name string, content []byte) error {
	path := filepath.Join(f.path, name)
	tmp, err := os.CreateTemp(f.path, name+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	dir, err := os.Open(f.path)
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// save writes a file first and the state that refers to it second.
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

// reset writes the state first: files that it does not refer to do no harm.
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
