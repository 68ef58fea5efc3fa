package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"math/big"

	"gangway/tcg"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Signer is the IDevID key as a crypto.Signer, for TLS. It is safe for concurrent use.
type Signer struct {
	IDevID     *tcg.Public // callers must not change it
	IDevIDName []byte      // its TPM name

	ring *ring
	key  *key
	pub  crypto.PublicKey
	own  bool // true if no Identity shares the ring, so that Close may close the ring
}

// LoadSigner makes only the IDevID key, with one TPM command. A device that already has its
// certificates needs no other key. Options.Algorithm must be the same as at onboarding. The caller
// must check that the key that Public returns is the key in the device's certificate.
func LoadSigner(ctx context.Context, t *TPM, o Options) (*Signer, error) {
	end, err := t.begin(ctx, OpMakeKeys)
	if err != nil {
		return nil, err
	}
	defer end()
	r := &ring{t: t, endAuth: o.EndorsementAuth}
	_, k, err := r.makeKeys(o.Algorithm, false)
	if err != nil {
		return nil, r.explain(errors.Join(err, r.close()))
	}
	s, err := newSigner(r, k, true)
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	return s, nil
}

func newSigner(r *ring, k *key, own bool) (*Signer, error) {
	pub, err := k.public.Key()
	if err != nil {
		return nil, err
	}
	return &Signer{IDevID: k.public, IDevIDName: k.name, ring: r, key: k, pub: pub, own: own}, nil
}

// Signer returns the IDevID key, for TLS client authentication. The Signer is valid until i is
// closed.
func (i *Identity) Signer() *Signer { return i.signer }

// Close flushes the key of a Signer from LoadSigner. For an Identity's Signer, Close does nothing:
// the key stays until the Identity is closed.
func (s *Signer) Close() error {
	if !s.own {
		return nil
	}
	return s.ring.shut()
}

// Public returns an *ecdsa.PublicKey or *rsa.PublicKey.
func (s *Signer) Public() crypto.PublicKey { return s.pub }

// Sign signs a digest in the TPM. It does not use its first argument.
//
// For an ECC key, it returns an ASN.1 Ecdsa-Sig-Value (RFC 3279, 2.2.3). The digest must be made
// with the hash that TLS 1.3 uses for the key's curve: SHA-256 for P-256, SHA-384 for P-384,
// SHA-512 for P-521. For an RSA key, it returns an RSA-PSS signature if `opts` is an
// *rsa.PSSOptions, and a PKCS #1 v1.5 signature otherwise.
//
// Sign verifies each signature before it returns it. If the salt does not have the length that
// `opts` requires, the error is ErrPSSSalt.
func (s *Signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	hash, ok := tpmHash[opts.HashFunc()]
	if !ok || len(digest) != opts.HashFunc().Size() {
		return nil, fmt.Errorf("identity: signing a digest of %d bytes from %v: only SHA-256, SHA-384 and SHA-512 are supported", len(digest), opts.HashFunc())
	}
	end, err := s.ring.begin(context.Background(), OpHandshake)
	if err != nil {
		return nil, err
	}
	defer end()
	var out []byte
	var verify func(raw []byte) error
	sc := scheme{tcg.AlgECDSA, hash}
	switch pub := s.pub.(type) {
	case *ecdsa.PublicKey:
		if hash != s.IDevID.SchemeHash {
			return nil, fmt.Errorf("identity: this TPM's %s key cannot sign %v digests, because its signing scheme requires another hash", s.IDevID.Algorithm(), opts.HashFunc())
		}
		verify = func(raw []byte) (err error) {
			out, err = verifyECDSA(pub, digest, raw)
			return err
		}
	case *rsa.PublicKey:
		pss, isPSS := opts.(*rsa.PSSOptions)
		sc.alg = tcg.AlgRSASSA
		if isPSS {
			sc.alg = tcg.AlgRSAPSS
		}
		verify = func(raw []byte) (err error) {
			out, err = verifyRSA(pub, digest, opts.HashFunc(), pss, raw)
			return err
		}
	}
	if _, err := s.ring.sign(s.key, sc, digest, verify); err != nil {
		return nil, s.ring.explain(fmt.Errorf("identity: signing with the IDevID key: %w", err))
	}
	return out, nil
}

var tpmHash = map[crypto.Hash]tcg.AlgID{
	crypto.SHA256: tcg.AlgSHA256, crypto.SHA384: tcg.AlgSHA384, crypto.SHA512: tcg.AlgSHA512,
}

type scheme struct{ alg, hash tcg.AlgID }

// The method `sign` signs a digest with an unrestricted key, and returns the TPMT_SIGNATURE if the
// function `verify` accepts it. If `verify` returns tcg.ErrSignature, the signature was made with
// another key, to which the handle now refers. In this case, sign makes the ring's key again and
// retries.
func (r *ring) sign(k *key, s scheme, digest []byte, verify func(raw []byte) error) ([]byte, error) {
	var out []byte
	err := r.attempt([]*key{k}, func() error {
		rsp, err := run(r.t, tpm2.Sign{
			KeyHandle: k.with(r.user(k)),
			Digest:    tpm2.TPM2BDigest{Buffer: digest},
			InScheme: tpm2.TPMTSigScheme{
				Scheme:  tpm2.TPMAlgID(s.alg),
				Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgID(s.alg), &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMIAlgHash(s.hash)}),
			},
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
		})
		if err != nil {
			return err
		}
		if out, err = marshalSignature(rsp.Signature); err != nil {
			return err
		}
		if err := verify(out); errors.Is(err, tcg.ErrSignature) {
			return errForeignKey
		} else if err != nil {
			return err
		}
		return nil
	})
	return out, err
}

// verifyECDSA converts a TPMT_SIGNATURE to ASN.1 and verifies it.
func verifyECDSA(pub *ecdsa.PublicKey, digest, raw []byte) ([]byte, error) {
	sig, err := tcg.ParseSignature(raw)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(sig.R))
		b.AddASN1BigInt(new(big.Int).SetBytes(sig.S))
	})
	der, err := b.Bytes()
	if err != nil {
		return nil, err
	}
	if sig.Scheme != tcg.AlgECDSA || !ecdsa.VerifyASN1(pub, digest, der) {
		return nil, tcg.ErrSignature
	}
	return der, nil
}

// verifyRSA extracts the signature from a TPMT_SIGNATURE and verifies it. `pss` is nil for PKCS #1
// v1.5.
func verifyRSA(pub *rsa.PublicKey, digest []byte, hash crypto.Hash, pss *rsa.PSSOptions, raw []byte) ([]byte, error) {
	sig, err := tcg.ParseSignature(raw)
	if err != nil {
		return nil, err
	}
	if pss == nil {
		if rsa.VerifyPKCS1v15(pub, hash, digest, sig.RSA) != nil {
			return nil, tcg.ErrSignature
		}
		return sig.RSA, nil
	}
	if rsa.VerifyPSS(pub, hash, digest, sig.RSA, &rsa.PSSOptions{SaltLength: pss.SaltLength}) == nil {
		return sig.RSA, nil
	}
	if rsa.VerifyPSS(pub, hash, digest, sig.RSA, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto}) == nil {
		return nil, ErrPSSSalt
	}
	return nil, tcg.ErrSignature
}
