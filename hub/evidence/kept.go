package evidence

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"gangway/tcg"
	"gangway/wire"
)

// ParseKept parses the request that the hub stored when a device onboarded: a TCG-CSR-IDEVID, or
// the wire.RegistrationRecord of a two-step enrolment. It lets the hub show in advance what a new
// policy would decide about devices that have already onboarded.
func ParseKept(raw []byte) (*Request, error) {
	if !bytes.HasPrefix(raw, []byte("{")) {
		return Parse(raw)
	}
	var k wire.RegistrationRecord
	if err := json.Unmarshal(raw, &k); err != nil {
		return nil, fmt.Errorf("evidence: kept registration: %w", err)
	}
	key, err := tcg.ParsePublic(k.IDevIDPub)
	if err != nil {
		return nil, fmt.Errorf("evidence: kept registration: %w", err)
	}
	name, err := key.Name()
	if err != nil {
		return nil, fmt.Errorf("evidence: kept registration: %w", err)
	}
	text := base64.StdEncoding.EncodeToString
	in := wire.Registration{CSR: k.CSR, Name: hex.EncodeToString(name), IDevIDPub: text(k.IDevIDPub), TPMKeys: wire.TPMKeys{AKPub: text(k.AKPub), EKPub: text(k.EKPub), EKCert: text(k.EKCert)}}
	for _, link := range k.EKChain {
		in.EKChain = append(in.EKChain, text(link))
	}
	return ParseRegistration(&in)
}
