package diskkey

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io/fs"
	"slices"
	"unicode/utf16"

	"gangway/tcg/eventlog"

	"github.com/google/uuid"
)

// keyVariables are the variables with the keys of Secure Boot. Firmware measures them into PCR 7 at
// each start, also if they are empty.
var keyVariables = []string{"PK", "KEK", "db", "dbx"}

// predictKeys returns the value of PCR 7 after the next start, if the Secure Boot keys have changed
// since this start. If they have not changed, or if the log does not explain PCR 7, the result is
// nil.
func predictKeys(log *eventlog.Log, value []byte, current func(string, uuid.UUID) ([]byte, error)) []byte {
	events := eventsOf(log, secureBootPCR)
	if current == nil || !bytes.Equal(replay(events), value) {
		return nil
	}
	changed := false
	for i, e := range events {
		if bytes.Equal(e.Digest, separator[:]) {
			break // later events are about the programs that the firmware started
		}
		v, ok := parseVariable(e)
		if !ok || !slices.Contains(keyVariables, v.name) {
			continue
		}
		now, err := current(v.name, v.vendor)
		if errors.Is(err, fs.ErrNotExist) {
			now, err = nil, nil
		}
		if err != nil {
			return nil
		}
		if !bytes.Equal(now, v.value) {
			sum := sha256.Sum256(v.with(now))
			events[i].Digest = sum[:]
			changed = true
		}
	}
	if !changed {
		return nil
	}
	return replay(events)
}

// separator is the digest of the event that ends the firmware's part of a PCR.
var separator = sha256.Sum256(make([]byte, 4))

// A variable is the UEFI_VARIABLE_DATA of an event (PC Client Platform Firmware Profile, 10.2.6).
type variable struct {
	head   []byte // the vendor's GUID
	vendor uuid.UUID
	name   string
	value  []byte
}

// parseVariable parses the data of an event. `ok` is false if the digest does not cover the data, or
// if the data is something else.
func parseVariable(e eventlog.Event) (v variable, ok bool) {
	const guid, lengths = 16, 16
	if sum := sha256.Sum256(e.Data); !bytes.Equal(sum[:], e.Digest) || len(e.Data) < guid+lengths {
		return v, false
	}
	le := binary.LittleEndian
	units, size := le.Uint64(e.Data[guid:]), le.Uint64(e.Data[guid+8:])
	rest := e.Data[guid+lengths:]
	if units > 64 || size > eventlog.MaxLog || uint64(len(rest)) != 2*units+size {
		return v, false
	}
	text := make([]uint16, units)
	for i := range text {
		text[i] = le.Uint16(rest[2*i:])
	}
	v = variable{head: e.Data[:guid], name: string(utf16.Decode(text)), value: rest[2*units:]}
	copy(v.vendor[:], v.head)
	// The first three fields of an EFI GUID are little-endian.
	slices.Reverse(v.vendor[0:4])
	slices.Reverse(v.vendor[4:6])
	slices.Reverse(v.vendor[6:8])
	return v, true
}

// with returns the UEFI_VARIABLE_DATA of the variable with another value.
func (v variable) with(value []byte) []byte {
	text := utf16.Encode([]rune(v.name))
	b := binary.LittleEndian.AppendUint64(slices.Clone(v.head), uint64(len(text)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
	for _, u := range text {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return append(b, value...)
}
