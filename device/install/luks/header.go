package luks

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Sizes in bytes, the same as cryptsetup's defaults.
const (
	headerSize = 16 << 10
	binarySize = 4096
	jsonSize   = headerSize - binarySize
	// Overhead is the offset of the encrypted data in the partition.
	Overhead   = 16 << 20
	slotsBegin = 2 * headerSize
	slotSize   = 63 * 4096 // the key, split into stripes, rounded up to whole pages
	keySize    = 64
	sector     = 512
)

const cipherName = "aes-xts-plain64"

// metadata is the header's JSON (LUKS2 specification, 3). Numbers of 64 bits are encoded as
// strings.
type metadata struct {
	Keyslots map[string]keyslot         `json:"keyslots"`
	Tokens   map[string]json.RawMessage `json:"tokens"`
	Segments map[string]segment         `json:"segments"`
	Digests  map[string]digest          `json:"digests"`
	Config   config                     `json:"config"`
}

type keyslot struct {
	Type    string `json:"type"`
	KeySize int    `json:"key_size"`
	AF      struct {
		Type    string `json:"type"`
		Stripes int    `json:"stripes"`
		Hash    string `json:"hash"`
	} `json:"af"`
	Area struct {
		Type       string `json:"type"`
		Offset     int64  `json:"offset,string"`
		Size       int64  `json:"size,string"`
		Encryption string `json:"encryption"`
		KeySize    int    `json:"key_size"`
	} `json:"area"`
	KDF kdf `json:"kdf"`
}

type kdf struct {
	Type       string `json:"type"`
	Hash       string `json:"hash"`
	Iterations int    `json:"iterations"`
	Salt       []byte `json:"salt"`
}

type segment struct {
	Type       string `json:"type"`
	Offset     int64  `json:"offset,string"`
	Size       string `json:"size"`
	Tweak      int64  `json:"iv_tweak,string"`
	Encryption string `json:"encryption"`
	SectorSize int    `json:"sector_size"`
}

type digest struct {
	Type       string   `json:"type"`
	Keyslots   []string `json:"keyslots"`
	Segments   []string `json:"segments"`
	Hash       string   `json:"hash"`
	Iterations int      `json:"iterations"`
	Salt       []byte   `json:"salt"`
	Digest     []byte   `json:"digest"`
}

type config struct {
	JSONSize     int64 `json:"json_size,string"`
	KeyslotsSize int64 `json:"keyslots_size,string"`
}

// Magic numbers of the two copies of the header.
const (
	// Magic is the first bytes of an encrypted partition.
	Magic       = "LUKS\xba\xbe"
	secondMagic = "SKUL\xba\xbe"
)

// Offsets of the fields of the binary header (LUKS2 specification, 2).
const (
	atVersion, atSize, atSeq, atLabel, atAlg, atSalt, atUUID, atOffset, atSum = 6, 8, 16, 24, 72, 104, 168, 256, 448
)

// The function `header` makes one of the two copies of the header. `text` is the header's JSON.
func header(magic string, offset int64, salt []byte, id string, text []byte) ([]byte, error) {
	if len(text) >= jsonSize {
		return nil, fmt.Errorf("luks: the header's JSON has %d bytes; at most %d fit", len(text), jsonSize-1)
	}
	b := make([]byte, headerSize)
	copy(b, magic)
	binary.BigEndian.PutUint16(b[atVersion:], 2)
	binary.BigEndian.PutUint64(b[atSize:], headerSize)
	binary.BigEndian.PutUint64(b[atSeq:], 1)
	copy(b[atLabel:], "gangway-data")
	copy(b[atAlg:], "sha256")
	copy(b[atSalt:atUUID], salt)
	copy(b[atUUID:], id)
	binary.BigEndian.PutUint64(b[atOffset:], uint64(offset))
	copy(b[binarySize:], text)
	sum := sha256.Sum256(b)
	copy(b[atSum:], sum[:])
	return b, nil
}

// copies lists the magic number and the offset in the partition of each of the header's two copies.
var copies = [2]struct {
	magic string
	at    int64
}{{Magic, 0}, {secondMagic, headerSize}}

// readHeader returns the newest intact header.
func readHeader(r io.ReaderAt) (*metadata, error) {
	b, _, err := newest(r)
	if err != nil {
		return nil, err
	}
	m := new(metadata)
	if err := json.Unmarshal(textOf(b), m); err != nil {
		return nil, fmt.Errorf("luks: the header's JSON: %w", err)
	}
	return m, nil
}

// The function `newest` returns the newest intact copy of the header, and which copies are intact.
// A power cut during a change leaves one copy older than the other, or damaged.
func newest(r io.ReaderAt) (b []byte, intact [2]bool, err error) {
	var errs error
	for i := range copies {
		one, err := readCopy(r, i)
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		intact[i] = true
		if b == nil || seqOf(one) > seqOf(b) {
			b = one
		}
	}
	if b == nil {
		return nil, intact, errs
	}
	return b, intact, nil
}

func seqOf(b []byte) uint64 { return binary.BigEndian.Uint64(b[atSeq:]) }

// textOf returns the JSON of a header.
func textOf(b []byte) []byte {
	text, _, _ := bytes.Cut(b[binarySize:], []byte{0})
	return text
}

// readCopy reads one copy of the header, and checks its checksum. The result has zeros in place of
// the checksum.
func readCopy(r io.ReaderAt, n int) ([]byte, error) {
	c := copies[n]
	b := make([]byte, headerSize)
	if _, err := r.ReadAt(b, c.at); err != nil {
		return nil, fmt.Errorf("luks: reading the header: %w", err)
	}
	if string(b[:len(c.magic)]) != c.magic || binary.BigEndian.Uint16(b[atVersion:]) != 2 || binary.BigEndian.Uint64(b[atSize:]) != headerSize {
		return nil, errors.New("luks: no LUKS2 header of the size that Gangway's installer uses")
	}
	want := bytes.Clone(b[atSum : atSum+sha256.Size])
	clear(b[atSum : atSum+64])
	if sum := sha256.Sum256(b); !bytes.Equal(sum[:], want) {
		return nil, errors.New("luks: the header is damaged: its checksum is wrong")
	}
	return b, nil
}
