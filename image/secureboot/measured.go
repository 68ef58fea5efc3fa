package secureboot

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"fmt"

	"gangway/tcg/eventlog"
)

// Event returns the UEFI_VARIABLE_DATA (TCG PC Client Platform Firmware Profile, 10.2.6) with the
// content of the variable `v`. Firmware that has enrolled exactly this set extends PCR 7 with the
// digest of this data.
func (s *Set) Event(v Variable) ([]byte, error) {
	_, _, content, err := split(s.Signed[v])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", v, err)
	}
	return v.event(content), nil
}

// Authority returns the data of an event EV_EFI_VARIABLE_AUTHORITY (same profile, 3.3.4.8). When
// firmware first starts a program that was signed with the certificate `c`, it extends PCR 7 with
// the digest of this data, which contains the entry of db that allows the program: the certificate
// itself or its issuer. Authority returns nil if no entry of db allows the program.
func (s *Set) Authority(c *x509.Certificate) ([]byte, error) {
	_, _, content, err := split(s.Signed[DB])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", DB, err)
	}
	for i, in := range s.Certificates[DB] {
		size := binary.LittleEndian.Uint32(content[16:])
		entry := content[listHead:size]
		content = content[size:]
		if !bytes.Equal(entry[16:], in.Raw) {
			return nil, fmt.Errorf("%s: entry %d is not the certificate that was checked: %w", DB, i, ErrVariable)
		}
		if bytes.Equal(in.Raw, c.Raw) || c.CheckSignatureFrom(in) == nil {
			return DB.event(entry), nil
		}
	}
	return nil, nil
}

// event returns the UEFI_VARIABLE_DATA of a variable with this content.
func (v Variable) event(content []byte) []byte {
	return eventlog.Variable{Vendor: v.vendor(), Name: string(v), Value: content}.Bytes()
}
