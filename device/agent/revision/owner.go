package revision

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"gangway/internal/diskfile"
	"gangway/wire/trail"
	"gangway/wire/trail/sig"
)

// ownerRecord is what a device with pinned keys remembers about its owner's revisions. It is stored
// in a file of its own, because a device that is onboarded again gets a new journal. The file's
// name contains the name of the pinned keys (sig.Keys.Name). So if a person at the machine or a new
// image pins other keys, the record for these keys is empty at first.
type ownerRecord struct {
	// Keys is the key file of an accepted revision that replaced the pinned keys. If Keys is empty,
	// the pinned keys are in use.
	Keys string    `json:"keys,omitempty"`
	Last *accepted `json:"last,omitempty"`
}

// The type `accepted` describes the accepted revision with the largest sequence number.
type accepted struct {
	Sequence uint64 `json:"sequence"`
	State    string `json:"state"` // SHA-256 of the posted state's canonical form, with its signatures
	// Keys is the key file with which the revision was verified. The device needs it if a power cut
	// interrupts the installation of a revision that replaces the keys, because the new keys cannot
	// verify that revision.
	Keys string `json:"keys"`
}

// owner checks revisions with the pinned keys.
type owner struct {
	path   string
	device string    // the device's id
	keys   *sig.Keys // the present keys
	record ownerRecord
}

// openOwner reads the record for the pinned keys from the folder `dir`. If `pinned` is nil, it
// returns nil: the device accepts revisions without a signature.
func openOwner(dir, device string, pinned *sig.Keys) (*owner, error) {
	if pinned == nil {
		return nil, nil
	}
	o := &owner{path: filepath.Join(dir, "owner-"+pinned.Name()[:16]+".json"), device: device, keys: pinned}
	b, err := os.ReadFile(o.path)
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &o.record)
	}
	if err == nil && o.record.Keys != "" {
		o.keys, err = sig.ParseKeys([]byte(o.record.Keys))
	}
	if err != nil {
		return nil, fmt.Errorf("trail: %s is damaged, so the last accepted sequence number is unknown: if you remove the file, the device accepts any revision that the pinned keys signed, even an old one: %w", o.path, err)
	}
	return o, nil
}

// parse parses the text of a state that the hub or the image offers. If the owner's keys are
// pinned, the result contains only what the owner has signed, and the caller must call the method
// `accept` before it acts on the result. Without pinned keys, `signed` is nil.
func (o *owner) parse(text []byte) (s *state, signed *sig.Signed, err error) {
	if o == nil {
		s, err = parseState(text)
		return s, nil, err
	}
	posted, err := trail.ParseState(text)
	if err != nil {
		return nil, nil, err
	}
	name, err := canonicalName(posted)
	if err != nil {
		return nil, nil, err
	}
	keys, last := o.keys, o.record.Last
	if last != nil && last.State == name {
		if keys, err = sig.ParseKeys([]byte(last.Keys)); err != nil {
			return nil, nil, diskError(err)
		}
	}
	if signed, err = sig.Verify(posted, keys); err != nil {
		return nil, nil, err
	}
	if signed.Devices != nil && !slices.Contains(signed.Devices, o.device) {
		return nil, nil, sig.OtherDevice(o.device)
	}
	if last != nil && (signed.Sequence < last.Sequence || signed.Sequence == last.Sequence && last.State != name) {
		return nil, nil, sig.Old(signed.Sequence, last.Sequence)
	}
	if s, err = newState(signed.State); err != nil {
		return nil, nil, err
	}
	s.posted = posted
	return s, signed, nil
}

// accept records a revision's sequence number and new keys on the disk. From then on, the device
// refuses all older revisions, even after a power cut.
func (o *owner) accept(s *state, signed *sig.Signed) error {
	if signed == nil || o.record.Last != nil && signed.Sequence <= o.record.Last.Sequence {
		return nil
	}
	name, err := canonicalName(s.posted)
	if err != nil {
		return err
	}
	record, keys := o.record, o.keys
	record.Last = &accepted{signed.Sequence, name, string(keys.PEM())}
	if signed.Keys != nil {
		keys = signed.Keys
		record.Keys = string(keys.PEM())
	}
	b, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		return err
	}
	if err := diskfile.Replace(o.path, append(b, '\n'), nil); err != nil {
		return diskError(err)
	}
	o.record, o.keys = record, keys
	return nil
}

// canonicalName returns the SHA-256 of a state's canonical form. A hub may change a state's white
// space and the order of its names; such changes do not affect this hash.
func canonicalName(s *trail.State) (string, error) {
	b, err := s.Payload(func(string) bool { return true })
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// textName returns the SHA-256 of a state's compact text.
func textName(s *trail.State) string {
	sum := sha256.Sum256(s.JSON)
	return hex.EncodeToString(sum[:])
}
