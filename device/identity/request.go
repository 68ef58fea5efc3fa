package identity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"gangway/tcg"

	"github.com/google/go-tpm/tpm2"
)

// RequestInfo contains the values in a request that do not come from the TPM.
type RequestInfo struct {
	Model, Serial string // of the machine, UTF-8, 1 to tcg.MaxProduct bytes each
	EventLog      []byte // the firmware's event log, unchanged; may be nil

	// CAData returns the request's prodCaData, which contains the ownership proof for the IDevID
	// key whose TPM name is `idevidName`. If CAData is nil, the request has no prodCaData. Request
	// calls CAData once, before the TPM signs anything. CAData must not use the Identity.
	CAData func(idevidName []byte) ([]byte, error)
}

// Request makes a TCG-CSR-IDEVID (DevID 13.1): the device's request for its certificates, signed by
// the IDevID key. It includes a certification by the IAK that the IDevID key is in the same TPM.
// The qualifying data of this certification is the SHA-256 of prodCaData, so the certification is
// valid only for this ownership proof.
//
// Request verifies the TPM's results. If there is no EK certificate, the request has the EK's
// public area (TPMT_PUBLIC) instead.
func (i *Identity) Request(r RequestInfo) ([]byte, error) {
	var caData []byte
	if r.CAData != nil {
		var err error
		if caData, err = r.CAData(bytes.Clone(i.IDevIDName)); err != nil {
			return nil, fmt.Errorf("identity: prodCaData: %w", err)
		}
	}
	end, err := i.ring.begin(context.Background(), OpCertify)
	if err != nil {
		return nil, err
	}
	defer end()
	qualifying := sha256.Sum256(caData)
	attest, signature, err := i.certify(qualifying[:])
	if err != nil {
		return nil, i.ring.explain(fmt.Errorf("identity: certifying the IDevID key with the IAK: %w", err))
	}
	csr := tcg.CSR{
		ProdModel:      []byte(r.Model),
		ProdSerial:     []byte(r.Serial),
		CAData:         caData,
		EventLog:       r.EventLog,
		EKCert:         i.EKCert(),
		AttestPub:      i.IAK.Raw,
		SigningPub:     i.IDevID.Raw,
		SgnCertifyInfo: attest,
		SgnCertifySig:  signature,
	}
	i.ring.t.operation = OpSign
	body, err := csr.Encode(i.IDevID.NameAlg, func(contents []byte) ([]byte, error) {
		h, err := i.IDevID.NameAlg.Hash()
		if err != nil {
			return nil, err
		}
		d := h.New()
		d.Write(contents)
		scheme := scheme{tcg.AlgECDSA, i.IDevID.NameAlg}
		if i.IDevID.Type == tcg.AlgRSA {
			scheme.alg = tcg.AlgRSAPSS
		}
		return i.ring.sign(i.idevid, scheme, d.Sum(nil), func(raw []byte) error {
			s, err := tcg.ParseSignature(raw)
			if err != nil {
				return err
			}
			return i.IDevID.Verify(contents, s)
		})
	})
	return body, i.ring.explain(err)
}

// EKCert returns the field ekCert of a request: the EK certificate (DER) or, if there is none, the
// EK's TPMT_PUBLIC.
func (k *Keys) EKCert() []byte {
	if k.EKCertificate == nil {
		return k.EK.Raw
	}
	return k.EKCertificate.Certificate.Raw
}

// certify certifies the IDevID key with the IAK (TPM2_Certify). It returns the TPMS_ATTEST and the
// TPMT_SIGNATURE. Each key is authorised by its policy: the IDevID key for the ADMIN role, by the
// second branch, and the IAK for the USER role, by the first branch.
func (i *Identity) certify(qualifying []byte) (attest, signature []byte, err error) {
	r := i.ring
	err = r.attempt([]*key{i.iak, i.idevid}, func() error {
		rsp, err := run(r.t, tpm2.Certify{
			ObjectHandle:   i.idevid.with(r.policy(i.IDevID.NameAlg, tpm2.TPMCCCertify, i.idevid.template.PolicyBranches)),
			SignHandle:     i.iak.with(r.user(i.iak)),
			QualifyingData: tpm2.TPM2BData{Buffer: qualifying},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		})
		if err != nil {
			return err
		}
		attest = rsp.CertifyInfo.Bytes()
		if signature, err = marshalSignature(rsp.Signature); err != nil {
			return err
		}
		return i.checkCertify(attest, signature, qualifying)
	})
	return attest, signature, err
}

func (i *Identity) checkCertify(attest, signature, qualifying []byte) error {
	a, err := tcg.ParseCertify(attest)
	if err != nil {
		return err
	}
	s, err := tcg.ParseSignature(signature)
	if err != nil {
		return err
	}
	if !bytes.Equal(a.Name, i.IDevIDName) || !bytes.Equal(a.ExtraData, qualifying) {
		return errForeignKey
	}
	if err := i.IAK.Verify(attest, s); errors.Is(err, tcg.ErrSignature) {
		return errForeignKey
	} else if err != nil {
		return err
	}
	return nil
}
