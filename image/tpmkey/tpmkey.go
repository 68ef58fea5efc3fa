// Package tpmkey makes and uses a signing key that never leaves a TPM. An owner can keep the key of
// reference manifests in the TPM of the machine that builds images, so that no file has the key.
package tpmkey

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strconv"
	"strings"

	"gangway/device/identity"
	"gangway/device/identity/tpmrc"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Prefix is the beginning of the text that names a key in a TPM: tpm:0x81010050.
const Prefix = "tpm:"

// The first and the last persistent handle (TPM 2.0 Library, Part 2, 7.5).
const (
	firstPersistent = 0x81000000
	lastPersistent  = 0x81FFFFFF
)

// ErrKey means that the object at a handle is not a key that this package can sign with.
var ErrKey = errors.New("tpmkey: this is not a P-256 key that signs without a password: make a key with 'gangway manifest key create tpm:HANDLE'")

// ErrTaken means that another object is at the handle.
var ErrTaken = errors.New("tpmkey: the TPM has an object at this handle already: choose another handle")

// ParseHandle reads a name like tpm:0x81010050.
func ParseHandle(name string) (uint32, error) {
	text, ok := strings.CutPrefix(name, Prefix)
	h, err := strconv.ParseUint(text, 0, 32)
	if !ok || err != nil || h < firstPersistent || h > lastPersistent {
		return 0, fmt.Errorf("%q is not the name of a key in a TPM: write tpm: and a persistent handle, like tpm:0x81010050", name)
	}
	return uint32(h), nil
}

// Key is a P-256 key at a persistent handle. It is a crypto.Signer, and safe for concurrent use.
type Key struct {
	tpm    *identity.TPM
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public *ecdsa.PublicKey
}

// Open returns the key at a persistent handle. The caller keeps the TPM open while it uses the key.
func Open(ctx context.Context, t *identity.TPM, handle uint32) (*Key, error) {
	k := &Key{tpm: t, handle: tpm2.TPMHandle(handle)}
	err := t.Raw(ctx, func(tr transport.TPM) error {
		rsp, err := tpm2.ReadPublic{ObjectHandle: k.handle}.Execute(tr)
		if errors.Is(err, tpm2.TPMRCHandle) {
			return fmt.Errorf("%w: the TPM has nothing at 0x%08x", ErrKey, handle)
		} else if err != nil {
			return fmt.Errorf("tpmkey: read the key at 0x%08x: %w", handle, tpmrc.Explain(err, tpmrc.None))
		}
		public, err := rsp.OutPublic.Contents()
		if err != nil {
			return fmt.Errorf("tpmkey: the key at 0x%08x: %w", handle, err)
		}
		k.name = rsp.Name
		k.public, err = signingKey(public)
		return err
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// signingKey returns the public key if the object can sign any digest.
func signingKey(public *tpm2.TPMTPublic) (*ecdsa.PublicKey, error) {
	if a := public.ObjectAttributes; !a.SignEncrypt || a.Restricted || !a.UserWithAuth {
		return nil, ErrKey
	}
	key, err := tpm2.Pub(*public)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	ec, ok := key.(*ecdsa.PublicKey)
	if !ok || ec.Curve.Params().BitSize != 256 {
		return nil, ErrKey
	}
	return ec, nil
}

// Public returns an *ecdsa.PublicKey.
func (k *Key) Public() crypto.PublicKey { return k.public }

// Sign signs a SHA-256 digest in the TPM. The first argument is not used: the TPM has its own source
// of random numbers. Sign returns an ASN.1 Ecdsa-Sig-Value (RFC 3279, 2.2.3).
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != crypto.SHA256 || len(digest) != crypto.SHA256.Size() {
		return nil, fmt.Errorf("tpmkey: the key signs SHA-256 digests, not %v", opts.HashFunc())
	}
	var der []byte
	err := k.tpm.Raw(context.Background(), func(tr transport.TPM) error {
		rsp, err := tpm2.Sign{
			KeyHandle: tpm2.AuthHandle{Handle: k.handle, Name: k.name, Auth: tpm2.PasswordAuth(nil)},
			Digest:    tpm2.TPM2BDigest{Buffer: digest},
			InScheme: tpm2.TPMTSigScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256}),
			},
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
		}.Execute(tr)
		if err != nil {
			return fmt.Errorf("tpmkey: sign: %w", tpmrc.Explain(err, tpmrc.None))
		}
		sig, err := rsp.Signature.Signature.ECDSA()
		if err != nil {
			return fmt.Errorf("tpmkey: sign: %w", err)
		}
		der, err = asn1.Marshal(struct{ R, S *big.Int }{
			new(big.Int).SetBytes(sig.SignatureR.Buffer), new(big.Int).SetBytes(sig.SignatureS.Buffer),
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	// The signature is wrong if the TPM's bus is faulty, or if the handle now has another key.
	if !ecdsa.VerifyASN1(k.public, digest, der) {
		return nil, errors.New("tpmkey: the TPM returned a signature that this key did not make")
	}
	return der, nil
}

// Create makes a new P-256 key in the TPM's owner hierarchy, and stores it at a free persistent
// handle. Any program that may use the TPM can sign with the key. TPM2_Clear removes the key for
// good.
func Create(ctx context.Context, t *identity.TPM, handle uint32) (*Key, error) {
	unique := make([]byte, 32) // the TPM derives a primary key from its seed and this value
	if _, err := rand.Read(unique); err != nil {
		return nil, err
	}
	err := t.Raw(ctx, func(tr transport.TPM) error {
		if _, err := (tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(handle)}).Execute(tr); err == nil {
			return ErrTaken
		}
		made, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(template(unique))}.Execute(tr)
		if err != nil {
			return fmt.Errorf("tpmkey: make a key: %w", tpmrc.Explain(err, tpmrc.Owner))
		}
		_, err = tpm2.EvictControl{
			Auth:             tpm2.TPMRHOwner,
			ObjectHandle:     &tpm2.NamedHandle{Handle: made.ObjectHandle, Name: made.Name},
			PersistentHandle: tpm2.TPMHandle(handle),
		}.Execute(tr)
		if err != nil {
			return fmt.Errorf("tpmkey: store the key at 0x%08x: %w", handle, tpmrc.Explain(err, tpmrc.Owner))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return Open(ctx, t, handle)
}

// template is an unrestricted signing key that cannot leave the TPM.
func template(unique []byte) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true, NoDA: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: tpm2.TPMECCNistP256,
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: unique}, Y: tpm2.TPM2BECCParameter{Buffer: unique}}),
	}
}
