package machine

import (
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"gangway/device/install/approval"
	"gangway/device/install/diskkey"
	"gangway/device/install/luks"
	"gangway/tcg/eventlog"

	"golang.org/x/sys/unix"
)

// extraApprovals returns the owner's approvals of the running system. If the owner did not sign the
// system, there are no approvals.
func extraApprovals() ([]approval.Approval, error) {
	text, err := os.ReadFile(approval.SignaturePath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return approval.Parse(text)
}

// ownersKey returns the key of the owner who signed the running system, or nil if no owner signed
// it.
func ownersKey() (crypto.PublicKey, error) {
	text, err := os.ReadFile(approval.KeyPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return approval.ParseKey(text)
}

// ErrNotBound means that the disk's key is not bound to the owner's systems, so that every system
// opens the disk as before.
var ErrNotBound = errors.New("the disk's key is not bound to the owner's systems")

// ErrUpdateNotApproved means that the disk's owner has not approved the new system of an update, so
// that the new system could not open the disk.
var ErrUpdateNotApproved = errors.New("the disk's owner has not approved the new system, so it could not open the disk; build the system with --manifest-key and the owner's key, and post it again")

// BindData binds the key of an encrypted data partition to the running system and to the systems in
// other slots. `running` and `others` are the files of these systems, which are unified kernel
// images. If `needed` is not empty, it is the file in `others` whose system must be able to open
// the disk. If the owner did not approve that system, BindData changes nothing and returns
// ErrUpdateNotApproved. `changed` is false if the key was bound to these systems already.
//
// The error is ErrNotBound if the disk is not encrypted, or if its owner did not sign the running
// system. If binding the key fails, and the key was not bound before, the error wraps ErrNotBound
// and the cause, such as diskkey.ErrUnpredictable.
func BindData(partition, running string, others []string, needed string) (changed bool, err error) {
	owner, err := ownersKey()
	if err != nil {
		return false, err
	}
	f, err := os.OpenFile(partition, os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if err := lockHeader(f); err != nil {
		return false, err
	}
	encrypted, err := isEncrypted(f)
	if err != nil {
		return false, err
	}
	if owner == nil || !encrypted {
		return false, ErrNotBound
	}
	bound, err := diskkey.IsBound(f)
	if err != nil {
		return false, err
	}
	if changed, err = bind(f, owner, running, others, needed); err != nil && !bound {
		err = fmt.Errorf("%w: %w", ErrNotBound, err)
	}
	return changed, err
}

// isEncrypted reports whether a data partition has a LUKS2 header.
func isEncrypted(partition io.ReaderAt) (bool, error) {
	magic := make([]byte, len(luks.Magic))
	_, err := partition.ReadAt(magic, 0)
	return err == nil && string(magic) == luks.Magic, err
}

// lockHeader locks the disk's header until the file is closed. It first waits for any other process
// that has locked the header: the system may bind the key while a hook, called by the agent or by
// the console, changes the header.
func lockHeader(f *os.File) error {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock the disk's header: %w", err)
	}
	return nil
}

func bind(disk luks.Disk, owner crypto.PublicKey, running string, others []string, needed string) (changed bool, err error) {
	boot, this, systems, err := readSystems(owner, running, others, needed)
	if err != nil {
		return false, err
	}
	t, err := OpenTPM()
	if err != nil {
		return false, err
	}
	defer t.Close()
	return diskkey.Bind(t, disk, owner, boot, this, systems...)
}

// readSystems reads the arguments for the functions Bind and SetPIN of package diskkey. See
// BindData for the parameters.
func readSystems(owner crypto.PublicKey, running string, others []string, needed string) (boot diskkey.Boot, this diskkey.System, systems []diskkey.System, err error) {
	if this, err = readSystem(running); err != nil {
		return boot, this, nil, err
	}
	if this.Approvals, err = extraApprovals(); err != nil { // those that the machine started with
		return boot, this, nil, err
	}
	for _, name := range others {
		s, err := readSystem(name)
		if name == needed {
			if err := mustOpen(owner, s, err); err != nil {
				return boot, this, nil, err
			}
		}
		if err == nil {
			systems = append(systems, s)
		}
	}
	log, err := os.ReadFile(eventlog.Path)
	if err != nil {
		return boot, this, nil, fmt.Errorf("%w: %w", diskkey.ErrUnpredictable, err)
	}
	return diskkey.Boot{Log: log, Variable: Firmware.Variable}, this, systems, nil
}

// mustOpen returns nil if the owner has approved the system of an update. `failed` is the error of
// reading this system.
func mustOpen(owner crypto.PublicKey, update diskkey.System, failed error) error {
	if failed != nil {
		return fmt.Errorf("read the new system: %w", failed)
	}
	if !update.ApprovedBy(owner) {
		return ErrUpdateNotApproved
	}
	return nil
}

func readSystem(file string) (diskkey.System, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return diskkey.System{}, err
	}
	return diskkey.ReadSystem(b)
}
