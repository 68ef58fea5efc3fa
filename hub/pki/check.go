package pki

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

var errDeviceID = errors.New("pki: the device id is not 24 hexadecimal digits")

func checkCommon(deviceID string, akName, hwSerial []byte, notBefore time.Time) error {
	var id [12]byte
	if len(deviceID) != 2*len(id) {
		return errDeviceID
	}
	if _, err := hex.Decode(id[:], []byte(deviceID)); err != nil {
		return errDeviceID
	}
	if !tpmName(akName) {
		return fmt.Errorf("pki: the AK name of %d bytes that starts with %x is not a TPM name", len(akName), akName[:min(2, len(akName))])
	}
	if len(hwSerial) == 0 || len(hwSerial) > 128 {
		return errors.New("pki: the hardware serial must have 1 to 128 bytes")
	}
	if y := notBefore.UTC().Year(); y < 1970 || y > 9998 {
		return fmt.Errorf("pki: a certificate cannot be valid from the year %d", y)
	}
	return nil
}

// maxTPMName is the maximum size of a TPM name, in bytes: the size of a name with SHA-512.
const maxTPMName = 2 + 64

// tpmName reports whether `b` is a TPM name with SHA-256, SHA-384 or SHA-512. A TPM name is
// nameAlg, then a digest of nameAlg's size (TPM 2.0 Library, Part 1, 16; TPM_ALG_ID in Part 2,
// 6.3).
func tpmName(b []byte) bool {
	if len(b) < 2 {
		return false
	}
	switch binary.BigEndian.Uint16(b) {
	case 0x000B:
		return len(b) == 2+32
	case 0x000C:
		return len(b) == 2+48
	case 0x000D:
		return len(b) == 2+64
	}
	return false
}

// checkURI accepts the empty string, and absolute URIs with a host (RFC 5280, 4.2.1.6), which every
// reader of the certificate can parse. It is strict because crypto/x509 refuses a whole certificate
// if one name in its SAN is malformed.
func checkURI(uri string) error {
	if uri == "" {
		return nil
	}
	if len(uri) > 512 || !ascii(uri) || strings.ContainsAny(uri, ` "<>\^{|}`+"`") {
		return errors.New("pki: the URI does not follow RFC 3986, or has more than 512 characters")
	}
	u, err := url.Parse(uri)
	if err != nil {
		return fmt.Errorf("pki: the URI: %w", err)
	}
	if u.Scheme != "https" && u.Scheme != "http" {
		return errors.New("pki: the URI must begin with http:// or https://")
	}
	for label := range strings.SplitSeq(u.Host, ".") {
		// SplitSeq yields one empty label for an empty host. For a host such as "host.:80", it
		// yields a last label that begins with a colon.
		if label == "" || label[0] == ':' {
			return errors.New("pki: the URI has no host, or its host has an empty label")
		}
	}
	if strings.ContainsFunc(u.Host, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("pki: the URI's host is not ASCII")
	}
	return nil
}

// ascii reports whether all characters of `s` are printable ASCII.
func ascii(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
