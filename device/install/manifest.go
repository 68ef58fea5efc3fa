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

// ManifestPath is where a stick has its manifest, in its EFI system partition.
const ManifestPath = "gangway/manifest.json"

// TokenPath is where the installed system has the join token, in its EFI
// system partition, until it is aboard.
const TokenPath = "gangway/device_autojointoken.json"

// HubPath is where a system without a join token has what it needs to know of
// its hub (join.HubFile), in its EFI system partition. It is no secret.
const HubPath = "gangway/hub.json"

// ConsolePath is where a system with a console has the SHA-256 of its password,
// in hexadecimal, in its initial file system.
const ConsolePath = "etc/gangway/console"

// HookPath is where a system has what the agent calls to update it, in its
// initial file system.
const HookPath = "bin/gangway-hook"

// FirstPath is where the data partition has the first revision until the
// device's trail has begun with it: state.json, and objects/ by SHA-256.
const FirstPath = "first-revision"

// Bounds of a manifest.
const (
	maxManifest = 256 << 10 // bytes
	maxPart     = 16 << 30  // bytes of a part, unpacked
)

// Manifest says what a stick installs. Its SHA-256 is on the installer's
// command line (gangway.manifest), so that what is installed is measured, and
// signed where the installer is.
type Manifest struct {
	Version int    `json:"version"` // 1
	Target  string `json:"target"`  // x64-uefi-installer
	Kernel  string `json:"kernel"`  // where it is from, for people
	// Reset has the stick wipe the machine, and install nothing: there is
	// nothing else in the manifest, then.
	Reset bool `json:"reset,omitempty"`
	Disk  Rule `json:"disk,omitempty"` // which disk the automatic installation takes
	Debug bool `json:"debug"`          // a console with login on the device
	// Hub, Owner and Token are the join token's, without its secret; empty
	// where the image carries none.
	Hub   string `json:"hub,omitempty"`
	Owner string `json:"owner,omitempty"`
	Token string `json:"token,omitempty"`
	// Escrow is the age recipient that the recovery keys of encrypted disks are
	// kept for; empty: they are not.
	Escrow string `json:"escrow,omitempty"`
	// Enrol are the keys for Secure Boot that firmware in setup mode takes from
	// the stick; nil: none. The boot manager has them do so before the installer
	// starts.
	Enrol *Enrol `json:"enrol,omitempty"`
	// First is the device's first revision, where it is not an empty one.
	First *First `json:"first,omitempty"`
	// Network is where the installer writes the stick's network settings
	// (NetworkPath): the offset of the file's content in the part "esp", in bytes.
	// It has netfile.MaxFile bytes. 0: nowhere.
	Network int64 `json:"network,omitempty"`
	// Parts are the partitions' contents: "esp" and "data".
	Parts []Part `json:"parts"`
}

// Part is what is written to a partition. The stick keeps the blocks that are
// not zero alone, one after the other.
type Part struct {
	Name string `json:"name"`
	// File is where the stick has it, and SHA256 the file's, in lower-case
	// hexadecimal.
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
	// Size is of what the blocks belong to, in bytes. A partition may be
	// larger.
	Size int64 `json:"size"`
	// Extents say where the blocks go.
	Extents []Extent `json:"extents"`
}

// KeysPath is the folder in which a stick's EFI system partition has the signed
// variables PK.auth, KEK.auth and db.auth (systemd-boot(7)).
const KeysPath = "loader/keys/auto"

// Enrol says which keys a stick has firmware take.
type Enrol struct {
	// Unasked has firmware take them with no key pressed; otherwise it is an
	// entry of the menu.
	Unasked bool `json:"unasked"`
	// SHA256 are of the files in KeysPath, by the variable's name, in lower-case
	// hexadecimal.
	SHA256 map[string]string `json:"sha256"`
}

// First says what is in the device's first revision, for people: what counts
// is in the data partition.
type First struct {
	SHA256  string   `json:"sha256"`  // of the state's compact text
	Parts   []string `json:"parts"`   // its folders and files at the top
	Objects int      `json:"objects"` // how many
	Size    int64    `json:"size"`    // of them, in bytes
}

// BlockSize is the unit of extents, in bytes.
const BlockSize = 64 << 10

// Extent is a run of blocks: the first, and how many.
type Extent [2]int64

// Packed is the size of the part's file.
func (p Part) Packed() (size int64) {
	for _, e := range p.Extents {
		size += e[1] * BlockSize
	}
	return size
}

// Pack finds the blocks of an image that are not zero. It returns where they
// are and the blocks, one after the other.
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

// ParseManifest reads a manifest strictly: unknown fields, trailing data and
// anything out of bounds are errors.
func ParseManifest(b []byte) (*Manifest, error) {
	if len(b) > maxManifest {
		return nil, fmt.Errorf("manifest: %d bytes, at most %d are allowed", len(b), maxManifest)
	}
	m := new(Manifest)
	if err := strictjson.DecodeKnown(b, m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if m.Version != 1 {
		return nil, fmt.Errorf("manifest: version %d; this installer knows 1", m.Version)
	}
	if m.Reset {
		if !reflect.DeepEqual(*m, Manifest{Version: 1, Target: m.Target, Kernel: m.Kernel, Reset: true}) {
			return nil, errors.New("manifest: it wipes, and so installs nothing")
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
	if m.Enrol != nil {
		if names := slices.Sorted(maps.Keys(m.Enrol.SHA256)); !slices.Equal(names, []string{"KEK", "PK", "db"}) {
			return nil, fmt.Errorf("manifest: keys for Secure Boot are PK, KEK and db; there are %q", names)
		}
		for v, sum := range m.Enrol.SHA256 {
			if !isSHA256(sum) {
				return nil, fmt.Errorf("manifest: %s: its SHA-256 is none", v)
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
		return nil, fmt.Errorf("manifest: the parts are %q; esp and data are expected", names)
	}
	if n := m.Network; n != 0 && (n < fatHead || n%largeSector != 0 || !m.part(ESP).has(n, netfile.MaxFile)) {
		return nil, fmt.Errorf("manifest: the network settings' place %d is not one of the part esp", n)
	}
	return m, nil
}

func (p Part) check() error {
	switch {
	case !isSHA256(p.SHA256):
		return errors.New("its SHA-256 is none")
	case p.Size <= 0 || p.Size > maxPart || p.Size%mib != 0:
		return fmt.Errorf("%d bytes; a whole number of MiB up to %d is expected", p.Size, maxPart/mib)
	case !fs.ValidPath(p.File) || !strings.HasPrefix(p.File, "gangway/"):
		return fmt.Errorf("%q is no file of the folder gangway", p.File)
	case len(p.Extents) == 0 || p.Extents[0][0] != 0:
		return errors.New("its first block is not there")
	}
	end, last := int64(0), p.Size/BlockSize
	for _, e := range p.Extents {
		if e[0] < end || e[0] > last || e[1] < 1 || e[1] > last-e[0] {
			return fmt.Errorf("its blocks %d are out of order, or outside of it", e)
		}
		end = e[0] + e[1]
	}
	return nil
}

// has reports whether a range, in bytes, is in blocks that are written.
func (p Part) has(at, size int64) bool {
	for _, e := range p.Extents { // which are in order
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

// part returns the part of a name, which ParseManifest has seen.
func (m *Manifest) part(name string) Part {
	return m.Parts[slices.IndexFunc(m.Parts, func(p Part) bool { return p.Name == name })]
}

// Unpack writes a part's blocks to their places.
func (p Part) Unpack(packed []byte, to io.WriterAt) error {
	if int64(len(packed)) != p.Packed() {
		return fmt.Errorf("manifest: part %q: %d bytes; its blocks have %d", p.Name, len(packed), p.Packed())
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
