package main

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"slices"

	"gangway/internal/fleet"
	"gangway/tcg"
)

// tpm is an emulated TPM with an RSA endorsement key, as most TPMs have. Its attestation key is RSA
// too, because SPIRE and step-ca support only RSA attestation keys.
type tpm struct {
	device *fleet.Device
	ak     *fleet.Key
	akCert []byte // DER; step-ca trusts the CA of AK certificates
}

func newTPM(maker *fleet.Maker) (*tpm, error) {
	d, err := fleet.New(maker, "L-1")
	if err != nil {
		return nil, err
	}
	t := &tpm{device: d}
	// RSASSA is the only scheme that SPIRE and step-ca verify.
	if t.ak, err = fleet.NewKey(tcg.IAKTemplates[0], func(p *tcg.Public) { p.Scheme, p.SchemeHash = tcg.AlgRSASSA, tcg.AlgSHA256 }); err != nil {
		return nil, err
	}
	template, err := fleet.EKTemplate(t.ak.Private.Public())
	if err != nil {
		return nil, err
	}
	template.KeyUsage, template.UnknownExtKeyUsage = x509.KeyUsageDigitalSignature, []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}} // tcg-kp-AIKCertificate
	cert, err := maker.Sign(template, t.ak.Private.Public())
	if err != nil {
		return nil, err
	}
	t.akCert = cert.Raw
	return t, nil
}

// newKey makes a device's signing key, on P-256.
func newKey() (*fleet.Key, error) { return fleet.NewKey(tcg.IDevIDTemplates[1], nil) }

// certify returns what TPM2_Certify would return for the key: the TPMS_ATTEST with the caller's
// data, and the TPMT_SIGNATURE of the attestation key.
func (t *tpm) certify(k *fleet.Key, extra []byte) (attest, signature []byte, err error) {
	attest = fleet.Attest(t.ak.Name(), k.Name())
	if len(extra) > 0 { // extraData is empty, and follows magic, type and qualifiedSigner
		at := 6 + 2 + int(binary.BigEndian.Uint16(attest[6:]))
		sized := append(binary.BigEndian.AppendUint16(nil, uint16(len(extra))), extra...)
		attest = slices.Concat(attest[:at], sized, attest[at+2:])
	}
	signature, err = t.ak.Sign(attest)
	return attest, signature, err
}
