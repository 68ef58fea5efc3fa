package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
)

// maxAuth is the maximum size of an authorisation value, in bytes: the digest size of the
// strongest hash algorithm of a hierarchy (TPM 2.0, Part 1, 19.6.4).
const maxAuth = 64

// readAuth reads an authorisation value from a file. The value is the file's text without the
// newline at its end. If the text begins with "hex:", the rest of it is the value in hexadecimal.
// The file must not be accessible to all users. If `name` is empty, the value is empty.
func readAuth(name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("%s: the file contains a password and every user can access it; run 'chmod 600 %s'", name, name)
	}
	b, err := readFile(name, 4*maxAuth)
	if err != nil {
		return nil, err
	}
	b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	if digits, ok := bytes.CutPrefix(b, []byte("hex:")); ok {
		if b, err = hex.AppendDecode(nil, digits); err != nil {
			return nil, fmt.Errorf("%s: the text after 'hex:' is not hexadecimal; write two digits for each byte, as in hex:00ff", name) // the text is secret, so the error does not quote it
		}
	}
	if len(b) > maxAuth {
		return nil, fmt.Errorf("%s: the text is too long: a TPM's password has at most %d bytes; correct the file", name, maxAuth)
	}
	return b, nil
}
