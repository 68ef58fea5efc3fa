package secureboot

import (
	"crypto/x509"
	"encoding/hex"

	"gangway/wire/manifest"
)

// Manifest returns the events of PCR 7 that identify the owner's Secure Boot keys, for a machine
// that has exactly these keys. The argument `leaf` is the certificate whose key signed the
// programs.
//
// PCR 7 also has other events, which depend on the machine's firmware: the state of Secure Boot,
// dbx (the forbidden certificates and programs), and the separator.
func (s *Set) Manifest(leaf *x509.Certificate) (*manifest.SecureBoot, error) {
	m := new(manifest.SecureBoot)
	for _, v := range []Variable{PK, KEK, DB} {
		event, err := s.Event(v)
		if err != nil {
			return nil, err
		}
		m.Variables = append(m.Variables, manifest.Variable{Name: string(v), Events: digests(event)})
	}
	authority, err := s.Authority(leaf)
	if err != nil {
		return nil, err
	}
	if authority != nil {
		m.Authority = digests(authority)
	}
	return m, nil
}

// digests returns the digests of the data in all banks.
func digests(data []byte) map[string]string {
	all := map[string]string{}
	for name, bank := range manifest.Banks() {
		h := bank.New()
		h.Write(data)
		all[name] = hex.EncodeToString(h.Sum(nil))
	}
	return all
}
