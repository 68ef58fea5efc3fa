package diskkey

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io/fs"
	"slices"

	"gangway/tcg/eventlog"

	"github.com/google/uuid"
)

// keyVariables are the firmware variables that contain the Secure Boot keys. Firmware measures them
// into PCR 7 at each boot, even if they are empty.
var keyVariables = []string{"PK", "KEK", "db", "dbx"}

// predictKeys returns the value that PCR 7 will have after the next boot, if the Secure Boot keys
// have changed since the present boot. If they have not changed, or if the log does not explain PCR
// 7, the result is nil.
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
		if !ok || !slices.Contains(keyVariables, v.Name) {
			continue
		}
		now, err := current(v.Name, vendorOf(v))
		if errors.Is(err, fs.ErrNotExist) {
			now, err = nil, nil
		}
		if err != nil {
			return nil
		}
		if !bytes.Equal(now, v.Value) {
			v.Value = now
			sum := sha256.Sum256(v.Bytes())
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

// parseVariable parses the data of an event. `ok` is false if the event's digest is not the hash of
// the data, or if the data is not a UEFI_VARIABLE_DATA.
func parseVariable(e eventlog.Event) (v eventlog.Variable, ok bool) {
	if sum := sha256.Sum256(e.Data); !bytes.Equal(sum[:], e.Digest) {
		return v, false
	}
	return eventlog.ParseVariable(e.Data)
}

// vendorOf returns the vendor GUID of a variable. The first three fields of an EFI_GUID are
// little-endian.
func vendorOf(v eventlog.Variable) uuid.UUID {
	id := uuid.UUID(v.Vendor)
	slices.Reverse(id[0:4])
	slices.Reverse(id[4:6])
	slices.Reverse(id[6:8])
	return id
}
