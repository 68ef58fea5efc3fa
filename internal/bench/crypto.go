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
	"errors"
	"math/big"

	"gangway/hub/evidence"
	"gangway/internal/fleet"
	"gangway/tcg"
)

// unavoidable contains the inputs of the cryptography that any hub must do for one request. All
// other work is done before the measurement: the keys are parsed, the digests computed, and the
// signatures encoded.
type unavoidable struct {
	leafDigest  [32]byte
	leafSig     []byte
	ek          crypto.PublicKey // *rsa.PublicKey or *ecdh.PublicKey
	iak, idevid *ecdsa.PublicKey
	certify     signed
	request     signed
}

type signed struct {
	digest [32]byte
	sig    []byte // ASN.1
}

// operation is one operation of the unavoidable cryptography.
type operation struct {
	name string
	f    func(*unavoidable) error
}

var errBench = errors.New("the verification of a valid signature failed")

func operations(maker *fleet.Maker) ([]operation, error) {
	issuer := maker.Intermediate.PublicKey.(*rsa.PublicKey)
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	verify := func(k *ecdsa.PublicKey, s *signed) error {
		if !ecdsa.VerifyASN1(k, s.digest[:], s.sig) {
			return errBench
		}
		return nil
	}
	return []operation{
		{"ek_leaf_verification", func(u *unavoidable) error {
			return rsa.VerifyPKCS1v15(issuer, crypto.SHA256, u.leafDigest[:], u.leafSig)
		}},
		{"make_credential_public_key", func(u *unavoidable) error {
			if k, ok := u.ek.(*rsa.PublicKey); ok {
				_, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, k, u.leafDigest[:], []byte("IDENTITY\x00"))
				return err
			}
			k := u.ek.(*ecdh.PublicKey)
			e, err := k.Curve().GenerateKey(rand.Reader)
			if err == nil {
				_, err = e.ECDH(k)
			}
			return err
		}},
		{"certify_verification", func(u *unavoidable) error { return verify(u.iak, &u.certify) }},
		{"request_verification", func(u *unavoidable) error { return verify(u.idevid, &u.request) }},
		{"certificate_signatures", func(u *unavoidable) error {
			for range 2 {
				if _, err := ecdsa.SignASN1(rand.Reader, ca, u.leafDigest[:]); err != nil {
					return err
				}
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
	leaf := r.EKCertificate.Certificate
	u := &unavoidable{leafDigest: sha256.Sum256(leaf.RawTBSCertificate), leafSig: leaf.Signature, ek: r.EKCertificate.PublicKey}
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
		v.out.digest = sha256.Sum256(v.message)
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
	return k.ownership(len(us))
}

// ownership measures the verification of an ownership proof. Only Gangway needs this operation, so
// it is not part of the unavoidable cryptography.
func (k *Kind) ownership(n int) error {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	sig := ed25519.Sign(key, make([]byte, 180))
	used, _, err := spent(func() error {
		return parallel(n, func(int) error {
			if !ed25519.Verify(pub, make([]byte, 180), sig) {
				return errBench
			}
			return nil
		})
	})
	k.Ownership = micros(used, n)
	return err
}
