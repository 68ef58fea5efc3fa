package main

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"math/big"

	"gangway/hub/evidence"
	"gangway/internal/fleet"
	"gangway/tcg"
	"gangway/wire"
)

// unavoidable contains the inputs of the cryptography that any hub must do for one request: the
// public-key operations, and the hashes of the messages that are signed. All other work is done
// before the measurement: the keys are parsed, and the signatures encoded.
type unavoidable struct {
	leaf        signed
	ek          crypto.PublicKey // *rsa.PublicKey or *ecdh.PublicKey
	iak, idevid *ecdsa.PublicKey
	certify     signed
	request     signed
	ownership   signed
}

type signed struct {
	message []byte
	sig     []byte // of an ECDSA key: ASN.1
}

func (s *signed) verifyECDSA(k *ecdsa.PublicKey) error {
	digest := sha256.Sum256(s.message)
	if !ecdsa.VerifyASN1(k, digest[:], s.sig) {
		return errBench
	}
	return nil
}

// operation is one operation of the unavoidable cryptography.
type operation struct {
	name string
	f    func(*unavoidable) error
}

var errBench = errors.New("the verification of a valid signature failed")

// ownershipProof is the name of the operation that only hubs with this protocol need. The others
// are in every enrolment of a TPM.
const ownershipProof = "ownership_proof"

func operations(maker *fleet.Maker, tok *wire.TokenFile) ([]operation, error) {
	issuer := maker.Intermediate.PublicKey.(*rsa.PublicKey)
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	secret, err := base64.StdEncoding.DecodeString(tok.Token)
	if err != nil {
		return nil, err
	}
	private, err := wire.OwnershipKey(secret, tok.ID)
	if err != nil {
		return nil, err
	}
	owner := private.Public().(ed25519.PublicKey)
	return []operation{
		{"ek_leaf_verification", func(u *unavoidable) error {
			digest := sha256.Sum256(u.leaf.message)
			return rsa.VerifyPKCS1v15(issuer, crypto.SHA256, digest[:], u.leaf.sig)
		}},
		{"make_credential_public_key", func(u *unavoidable) error {
			if k, ok := u.ek.(*rsa.PublicKey); ok {
				_, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, k, make([]byte, sha256.Size), []byte("IDENTITY\x00"))
				return err
			}
			k := u.ek.(*ecdh.PublicKey)
			e, err := k.Curve().GenerateKey(rand.Reader)
			if err == nil {
				_, err = e.ECDH(k)
			}
			return err
		}},
		{"certify_verification", func(u *unavoidable) error { return u.certify.verifyECDSA(u.iak) }},
		{"request_verification", func(u *unavoidable) error { return u.request.verifyECDSA(u.idevid) }},
		{"certificate_signatures", func(u *unavoidable) error {
			for range 2 {
				digest := sha256.Sum256(u.leaf.message) // about as long as the new certificates
				if _, err := ecdsa.SignASN1(rand.Reader, ca, digest[:]); err != nil {
					return err
				}
			}
			return nil
		}},
		{ownershipProof, func(u *unavoidable) error {
			if !ed25519.Verify(owner, u.ownership.message, u.ownership.sig) {
				return errBench
			}
			return nil
		}},
	}, nil
}

// prepare extracts the inputs of the unavoidable cryptography from a request.
func prepare(request []byte) (*unavoidable, error) {
	r, err := evidence.Parse(request)
	if err != nil {
		return nil, err
	}
	leaf, own := r.EKCertificate.Certificate, r.CAData
	u := &unavoidable{
		leaf: signed{leaf.RawTBSCertificate, leaf.Signature}, ek: r.EKCertificate.PublicKey,
		ownership: signed{wire.OwnershipMessage(own.HubName, own.Owner, own.TokenID, r.IDevIDName), own.Proof},
	}
	if k, ok := u.ek.(*ecdsa.PublicKey); ok {
		if u.ek, err = k.ECDH(); err != nil {
			return nil, err
		}
	}
	for _, v := range []struct {
		public    *tcg.Public
		key       **ecdsa.PublicKey
		message   []byte
		signature []byte
		out       *signed
	}{
		{r.IAK, &u.iak, r.CSR.SgnCertifyInfo, r.CSR.SgnCertifySig, &u.certify},
		{r.IDevID, &u.idevid, r.CSR.Contents, r.CSR.Signature, &u.request},
	} {
		k, err := v.public.Key()
		if err != nil {
			return nil, err
		}
		*v.key = k.(*ecdsa.PublicKey)
		s, err := tcg.ParseSignature(v.signature)
		if err != nil {
			return nil, err
		}
		v.out.message = v.message
		if v.out.sig, err = asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(s.R), new(big.Int).SetBytes(s.S)}); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// sum measures the unavoidable cryptography of all requests. It does the work as the hub does: for
// each request all operations in order, with the request's own keys, and several requests at the
// same time. Repeating one operation with one key would be up to a third faster, because the caches
// would be warm, but no hub can work in that order.
func sum(ops []operation, requests [][]byte) (float64, error) {
	us, err := prepareAll(requests)
	if err != nil {
		return 0, err
	}
	used, _, err := spent(func() error {
		return parallel(len(us), func(i int) error {
			for _, op := range ops {
				if err := op.f(us[i]); err != nil {
					return err
				}
			}
			return nil
		})
	})
	return micros(used, len(us)), err
}

func prepareAll(requests [][]byte) ([]*unavoidable, error) {
	us := make([]*unavoidable, len(requests))
	return us, parallel(len(requests), func(i int) (err error) {
		us[i], err = prepare(requests[i])
		return err
	})
}

// breakdown measures each operation of the unavoidable cryptography in a separate loop.
func (k *Kind) breakdown(ops []operation, requests [][]byte) error {
	us, err := prepareAll(requests)
	if err != nil {
		return err
	}
	k.Crypto = map[string]float64{}
	for _, op := range ops {
		used, _, err := spent(func() error {
			return parallel(len(us), func(i int) error { return op.f(us[i]) })
		})
		if err != nil {
			return err
		}
		k.Crypto[op.name] = micros(used, len(us))
	}
	return nil
}
