package install

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"strings"

	"gangway/device/install/escrow"
	"gangway/device/install/netfile"
	"gangway/internal/strictjson"
)

// ManifestPath is the manifest's path in the stick's EFI system partition.
const ManifestPath = "gangway/manifest.json"

// TokenPath is the path of the token file in the installed system's EFI system partition. The file
// exists until the device is onboarded.
const TokenPath = "gangway/device_autojointoken.json"

// HubPath is the path of the hub file (wire.HubFile) in the EFI system partition of a system
// without a join token. The hub file contains no secret.
const HubPath = "gangway/hub.json"

// ConsolePath is the path of a file in the initial file system. The file contains the SHA-256, in
// hexadecimal, of the password for the shell on the machine's console. If no shell is allowed, the
// system does not have this file.
const ConsolePath = "etc/gangway/console"

// RevisionKeyPath is the path, in the initial file system, of the key file with the owner's keys
// (package sig). A system with this file installs only revisions that one of these keys has signed.
// An attacker cannot replace the file unnoticed, because the firmware measures the initial file
// system.
const RevisionKeyPath = "etc/gangway/revision-key.pem"

// WipePath is the path of a file in an installed system's EFI system partition. The file exists if
// a person has requested a wipe at the machine's console. Then the machine is wiped at its next
// start, before the system runs.
const WipePath = "gangway/wipe"

// HookPath is the path, in the initial file system, of the program that the agent calls to
// update the system.
const HookPath = "bin/gangway-hook"

// FirstPath is the folder of the first revision in the data partition. It contains state.json, and
// the folder `objects` with files named by SHA-256. The folder exists until the hub has stored that
// revision as the device's first.
const FirstPath = "first-revision"

// Bounds of a manifest.
const (
	maxManifest = 256 << 10 // bytes
	maxPart     = 16 << 30  // bytes of an unpacked part
)

// Manifest describes the system that a stick installs. The installer's command line contains the
// manifest's SHA-256 (gangway.manifest). So the TPM's measurement of the command line and the
// installer's Secure Boot signature cover the manifest too.
type Manifest struct {
	Version int    `json:"version"` // the format's version, 1
	Target  string `json:"target"`  // x64-uefi-installer
	Kernel  string `json:"kernel"`  // the kernel's origin, for people
	// Reset makes the stick wipe the machine and install nothing. Then all fields below are
	// empty.
	Reset bool `json:"reset,omitempty"`
	Disk  Rule `json:"disk,omitempty"` // the rule by which the automatic installation chooses a disk
	Debug bool `json:"debug"`          // the device has a password with which a person opens a shell
	// Hub, Owner and Token are copied from the join token, but its secret is not. They are empty if
	// the image has no join token.
	Hub   string `json:"hub,omitempty"`
	Owner string `json:"owner,omitempty"`
	Token string `json:"token,omitempty"`
	// Escrow is the age recipient to which the installer encrypts a disk's recovery key, so that
	// the hub can store it. If Escrow is empty, the hub stores no recovery key.
	Escrow string `json:"escrow,omitempty"`
	// Approved is true if the owner has signed the system as approved. At its first start, such a
	// system itself binds the key of its encrypted disk to the TPM (package diskkey). So the
	// installer seals that key with seal.NewFirst, which lasts only until the first start.
	Approved bool `json:"approved,omitempty"`
	// RevisionKeys is the SHA-256 of the system's file RevisionKeyPath, in lower-case hexadecimal.
	// Empty: the device installs revisions without a signature.
	RevisionKeys string `json:"revision-keys,omitempty"`
	// Enrol holds the Secure Boot keys that firmware in setup mode enrols from the stick. The boot
	// manager does this before the installer starts. Nil: no keys.
	Enrol *Enrol `json:"enrol,omitempty"`
	// First describes the device's first revision. Nil: that revision is empty.
	First *First `json:"first,omitempty"`
	// Network is the offset in bytes of the file NetworkPath in the part "esp". The installer
	// writes the stick's network settings there; the file has netfile.MaxFile bytes. If Network is
	// 0, the image does not support network settings.
	Network int64 `json:"network,omitempty"`
	// Parts describes the data of the partitions "esp" and "data".
	Parts []Part `json:"parts"`
}

// Part describes the data of a partition. The stick stores only the blocks that are not all zeros,
// one after the other.
type Part struct {
	Name string `json:"name"`
	// File is the path of the file with the packed blocks on the stick. SHA256 is the hash of that
	// file in lower-case hexadecimal.
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
	// Size is the size of the unpacked data in bytes. The partition may be larger.
	Size int64 `json:"size"`
	// Extents are the places of the packed blocks in the partition, in ascending order.
	Extents []Extent `json:"extents"`
}

// KeysPath is the folder, in a stick's EFI system partition, of the signed variables PK.auth,
// KEK.auth and db.auth (systemd-boot(7)).
const KeysPath = "loader/keys/auto"

// Enrol describes the Secure Boot keys that firmware enrols from a stick.
type Enrol struct {
	// Unasked makes the boot manager enrol the keys without a key press. If Unasked is false, a
	// person must open the boot manager's menu and choose the entry that enrols the keys.
	Unasked bool `json:"unasked"`
	// SHA256 maps the name of each variable to the hash of the variable's file in KeysPath, in
	// lower-case hexadecimal.
	SHA256 map[string]string `json:"sha256"`
}

// First describes the device's first revision, for people. Programs use the data partition's
// files instead.
type First struct {
	SHA256  string   `json:"sha256"`  // SHA-256 of the state as compact JSON
	Parts   []string `json:"parts"`   // the state's top-level folders and files
	Objects int      `json:"objects"` // number of objects
	Size    int64    `json:"size"`    // total size of the objects, in bytes
}

// BlockSize is the unit of extents, in bytes.
const BlockSize = 64 << 10

// Extent is a series of consecutive blocks: the number of the first block, and the number of
// blocks.
type Extent [2]int64

// Packed returns the size of the part's file on the stick, in bytes.
func (p Part) Packed() (size int64) {
	for _, e := range p.Extents {
		size += e[1] * BlockSize
	}
	return size
}

// Pack finds the blocks of an image that are not zero. It returns the places of these blocks, and
// the bytes of the blocks, one block after the other.
func Pack(image []byte) (extents []Extent, packed []byte) {
	zero := make([]byte, BlockSize)
	for at := int64(0); at < int64(len(image)); at += BlockSize {
		b := image[at:min(at+BlockSize, int64(len(image)))]
		if bytes.Equal(b, zero[:len(b)]) {
			continue
		}
		n := at / BlockSize
		if last := len(extents) - 1; last >= 0 && extents[last][0]+extents[last][1] == n {
			extents[last][1]++
		} else {
			extents = append(extents, Extent{n, 1})
		}
		packed = append(packed, b...)
	}
	return extents, packed
}

// The parts' names.
const (
	ESP  = "esp"
	Data = "data"
)

// ParseManifest parses a manifest strictly: unknown fields, trailing data and values out of
// bounds are errors.
func ParseManifest(b []byte) (*Manifest, error) {
	if len(b) > maxManifest {
		return nil, fmt.Errorf("manifest: the manifest has %d bytes; at most %d are allowed", len(b), maxManifest)
	}
	m := new(Manifest)
	if err := strictjson.DecodeKnown(b, m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if m.Version != 1 {
		return nil, fmt.Errorf("manifest: unknown version %d; this installer supports version 1", m.Version)
	}
	if m.Reset {
		if !reflect.DeepEqual(*m, Manifest{Version: 1, Target: m.Target, Kernel: m.Kernel, Reset: true}) {
			return nil, errors.New("manifest: \"reset\" is true, so all fields after \"reset\" must be empty")
		}
		return m, nil
	}
	if err := m.Disk.check(); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if m.Escrow != "" {
		if err := escrow.CheckRecipient(m.Escrow); err != nil {
			return nil, fmt.Errorf("manifest: %w", err)
		}
	}
	if m.RevisionKeys != "" && !isSHA256(m.RevisionKeys) {
		return nil, fmt.Errorf("manifest: the revision keys' SHA-256 is %q; 64 lower-case hexadecimal digits are required", m.RevisionKeys)
	}
	if m.Enrol != nil {
		if names := slices.Sorted(maps.Keys(m.Enrol.SHA256)); !slices.Equal(names, []string{"KEK", "PK", "db"}) {
			return nil, fmt.Errorf("manifest: the Secure Boot keys must be PK, KEK and db; the manifest has %q", names)
		}
		for v, sum := range m.Enrol.SHA256 {
			if !isSHA256(sum) {
				return nil, fmt.Errorf("manifest: Secure Boot key %s: %q is not a SHA-256 in lower-case hexadecimal", v, sum)
			}
		}
	}
	names := make([]string, len(m.Parts))
	for i, p := range m.Parts {
		names[i] = p.Name
		if err := p.check(); err != nil {
			return nil, fmt.Errorf("manifest: part %q: %w", p.Name, err)
		}
	}
	if !slices.Equal(names, []string{ESP, Data}) {
		return nil, fmt.Errorf("manifest: the parts must be \"esp\" and \"data\"; the manifest has %q", names)
	}
	if n := m.Network; n != 0 && (n < fatHead || n%largeSector != 0 || !m.part(ESP).has(n, netfile.MaxFile)) {
		return nil, fmt.Errorf("manifest: network: offset %d is not valid in the part \"esp\"", n)
	}
	return m, nil
}

func (p Part) check() error {
	switch {
	case !isSHA256(p.SHA256):
		return fmt.Errorf("%q is not a SHA-256 in lower-case hexadecimal", p.SHA256)
	case p.Size <= 0 || p.Size > maxPart || p.Size%mib != 0:
		return fmt.Errorf("the size is %d bytes; a whole number of MiB, at most %d MiB, is required", p.Size, maxPart/mib)
	case !fs.ValidPath(p.File) || !strings.HasPrefix(p.File, "gangway/"):
		return fmt.Errorf("%q is not a file in the folder gangway", p.File)
	case len(p.Extents) == 0 || p.Extents[0][0] != 0:
		return errors.New("its first block is missing")
	}
	end, last := int64(0), p.Size/BlockSize
	for _, e := range p.Extents {
		if e[0] < end || e[0] > last || e[1] < 1 || e[1] > last-e[0] {
			return fmt.Errorf("the extent %d is out of order, or out of bounds", e)
		}
		end = e[0] + e[1]
	}
	return nil
}

// The method `has` reports whether the stick stores all blocks of a range. `at` and `size` are in
// bytes.
func (p Part) has(at, size int64) bool {
	for _, e := range p.Extents { // sorted
		if from, to := e[0]*BlockSize, (e[0]+e[1])*BlockSize; from <= at && at < to {
			return size <= to-at && size <= p.Size-at
		}
	}
	return false
}

func isSHA256(s string) bool {
	sum, err := hex.DecodeString(s)
	return err == nil && len(sum) == 32 && s == strings.ToLower(s)
}

// The method `part` returns the part that has this name. ParseManifest has checked that the part
// exists.
func (m *Manifest) part(name string) Part {
	return m.Parts[slices.IndexFunc(m.Parts, func(p Part) bool { return p.Name == name })]
}

// Unpack writes a part's packed blocks to their places.
func (p Part) Unpack(packed []byte, to io.WriterAt) error {
	if int64(len(packed)) != p.Packed() {
		return fmt.Errorf("manifest: part %q: the file has %d bytes; its blocks require %d", p.Name, len(packed), p.Packed())
	}
	for _, e := range p.Extents {
		size := e[1] * BlockSize
		if _, err := to.WriteAt(packed[:size], e[0]*BlockSize); err != nil {
			return err
		}
		packed = packed[size:]
	}
	return nil
}
