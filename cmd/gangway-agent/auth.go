package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
)

// maxAuth is the longest authorisation value, in bytes: a digest of the
// strongest hash that a hierarchy has (Part 1, 19.6.4).
const maxAuth = 64

// readAuth reads an authorisation value from a file that only its owner, and
// perhaps a group, may read: its content without one line end, or "hex:" and
// digits. An empty name is an empty value.
func readAuth(name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("%s: every user of this machine may use the file, which holds a password: 'chmod 600 %s'", name, name)
	}
	b, err := readFile(name, 4*maxAuth)
	if err != nil {
		return nil, err
	}
	b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	if digits, ok := bytes.CutPrefix(b, []byte("hex:")); ok {
		if b, err = hex.AppendDecode(nil, digits); err != nil {
			return nil, fmt.Errorf("%s: 'hex:' is followed by something else than pairs of hexadecimal digits", name) // without them: they are secret
		}
	}
	if len(b) > maxAuth {
		return nil, fmt.Errorf("%s: a TPM's password has at most %d bytes, this one is longer", name, maxAuth)
	}
	return b, nil
}
