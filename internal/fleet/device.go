package fleet

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"gangway/tcg"
	"gangway/wire"

	"github.com/google/go-tpm/tpm2"
)

// Key is a TPM key in software: a public area and the private key. A real TPM never reveals its
// private keys.
type Key struct {
	Public  *tcg.Public
	Private crypto.Signer
}

// Name returns the key's TPM name.
func (k *Key) Name() []byte {
	n, err := k.Public.Name()
	if err != nil {
		panic(err) // cannot happen: all templates have supported algorithms
	}
	return n
}

// NewKey makes a key from a template. If `change` is not nil, it alters the public area before the
// key is made.
func NewKey(t tcg.Template, change func(*tcg.Public)) (*Key, error) {
	p := t.Public
	p.AuthPolicy = slices.Clone(p.AuthPolicy)
	var priv crypto.Signer
	if p.Type == tcg.AlgRSA {
		k, err := rsa.GenerateKey(rand.Reader, int(p.KeyBits))
		if err != nil {
			return nil, err
		}
		priv, p.Modulus = k, k.N.Bytes()
	} else {
		k, err := ecdsa.GenerateKey(curve(p.Curve), rand.Reader)
		if err != nil {
			return nil, err
		}
		point, err := k.PublicKey.Bytes()
		if err != nil {
			return nil, err
		}
		half := (len(point) - 1) / 2
		priv, p.X, p.Y = k, point[1:1+half], point[1+half:]
	}
	if change != nil {
		change(&p)
	}
	p.Raw = p.Marshal()
	return &Key{Public: &p, Private: priv}, nil
}

// Sign returns a TPMT_SIGNATURE over the bytes `message`, with the scheme of the key.
func (k *Key) Sign(message []byte) ([]byte, error) {
	scheme, hash := k.Public.Scheme, k.Public.SchemeHash
	if scheme == tcg.AlgNull {
		scheme, hash = tcg.AlgRSASSA, tcg.AlgSHA256
	}
	h, err := hash.Hash()
	if err != nil {
		return nil, err
	}
	d := h.New()
	d.Write(message)
	var opts crypto.SignerOpts = h
	if scheme == tcg.AlgRSAPSS {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: h}
	}
	sig, err := k.Private.Sign(rand.Reader, d.Sum(nil), opts)
	if err != nil {
		return nil, err
	}
	out := binary.BigEndian.AppendUint16(nil, uint16(scheme))
	out = binary.BigEndian.AppendUint16(out, uint16(hash))
	sized := func(b []byte) {
		out = binary.BigEndian.AppendUint16(out, uint16(len(b)))
		out = append(out, b...)
	}
	if scheme != tcg.AlgECDSA {
		sized(sig)
		return out, nil
	}
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(sig, &rs); err != nil {
		return nil, err
	}
	size := (k.Private.(*ecdsa.PrivateKey).Curve.Params().BitSize + 7) / 8
	sized(rs.R.FillBytes(make([]byte, size)))
	sized(rs.S.FillBytes(make([]byte, size)))
	return out, nil
}

// Device is a machine with an emulated TPM. A test of an attack alters the fields before it calls
// Request.
type Device struct {
	EK     *Key
	EKCert []byte // DER
	Chain  [][]byte
	IAK    *Key
	IDevID *Key
	Model  string
	Serial string
}

// New makes a device with an endorsement key of the template with this name ("L-1", "H-3", ...) and
// the maker's certificate for this key.
func New(m *Maker, ekTemplate string) (*Device, error) {
	i := slices.IndexFunc(tcg.EKTemplates, func(t tcg.Template) bool { return t.Name == ekTemplate })
	if i < 0 {
		return nil, fmt.Errorf("fleet: no EK template %q", ekTemplate)
	}
	d := &Device{Model: "fleet", Serial: wire.NewID()}
	var err error
	if d.EK, err = NewKey(tcg.EKTemplates[i], nil); err != nil {
		return nil, err
	}
	template, err := EKTemplate(d.EK.Private.Public())
	if err != nil {
		return nil, err
	}
	cert, err := m.Sign(template, d.EK.Private.Public())
	if err != nil {
		return nil, err
	}
	d.EKCert = cert.Raw
	if d.IAK, err = NewKey(tcg.IAKTemplates[1], nil); err != nil {
		return nil, err
	}
	if d.IDevID, err = NewKey(tcg.IDevIDTemplates[1], nil); err != nil {
		return nil, err
	}
	return d, nil
}

// RequestChange contains functions that alter parts of a request, for tests of attacks. A function
// that is nil alters nothing.
type RequestChange struct {
	CAData  func(*wire.CAData)
	Attest  func([]byte) []byte          // alters the TPMS_ATTEST before it is signed
	Certify func(attest []byte) []byte   // returns the TPMT_SIGNATURE over `attest`
	CSR     func(*tcg.CSR)               // alters the request before it is hashed and signed
	Sign    func(contents []byte) []byte // returns the TPMT_SIGNATURE over `contents`
}

// Request makes a TCG-CSR-IDEVID. Its ownership proof is made with the secret of this join token.
func (d *Device) Request(t *wire.TokenFile, change RequestChange) ([]byte, error) {
	secret, err := t.Secret()
	if err != nil {
		return nil, err
	}
	key, err := wire.OwnershipKey(secret, t.ID)
	if err != nil {
		return nil, err
	}
	ca := &wire.CAData{
		HubName: t.HubName, Owner: t.Owner, TokenID: t.ID, EKPublic: d.EK.Public.Raw, Chain: d.Chain,
		Proof: ed25519.Sign(key, wire.OwnershipMessage(t.HubName, t.Owner, t.ID, d.IDevID.Name())),
	}
	if change.CAData != nil {
		change.CAData(ca)
	}
	caData, err := ca.Encode()
	if err != nil {
		return nil, err
	}
	attest := Attest(d.IAK.Name(), d.IDevID.Name())
	if change.Attest != nil {
		attest = change.Attest(attest)
	}
	var sig []byte
	if change.Certify != nil {
		sig = change.Certify(attest)
	} else if sig, err = d.IAK.Sign(attest); err != nil {
		return nil, err
	}
	csr := &tcg.CSR{
		ProdModel: []byte(d.Model), ProdSerial: []byte(d.Serial), CAData: caData, EKCert: d.EKCert,
		AttestPub: d.IAK.Public.Raw, SigningPub: d.IDevID.Public.Raw,
		SgnCertifyInfo: attest, SgnCertifySig: sig,
	}
	if change.CSR != nil {
		change.CSR(csr)
	}
	return csr.Encode(tcg.AlgSHA256, func(contents []byte) ([]byte, error) {
		if change.Sign != nil {
			return change.Sign(contents), nil
		}
		return d.IDevID.Sign(contents)
	})
}

// Attest returns the TPMS_ATTEST that TPM2_Certify would make if the key `signer` certified the key
// `certified`. Both are TPM names of primary keys of the endorsement hierarchy.
func Attest(signer, certified []byte) []byte {
	return AttestAt(signer, certified, usualClock)
}

// AttestAt does the same as Attest, with `clock` as the TPM's clock.
func AttestAt(signer, certified []byte, clock tcg.ClockInfo) []byte {
	out := attest(tcg.AttestCertify, signer, clock)
	out = appendSized(out, certified)
	return appendSized(out, qualified(certified))
}

// Quote returns the TPMS_ATTEST that TPM2_Quote would make for PCR 0 to 7 of the SHA-256 bank.
// `signer` is the TPM name of the signing key.
func Quote(signer []byte) []byte {
	out := attest(tcg.AttestQuote, signer, usualClock)
	out = append(out, 0, 0, 0, 1, 0, 0x0B, 3, 0xFF, 0, 0)
	return appendSized(out, make([]byte, 32))
}

// usualClock is the default clock of an emulated TPM.
var usualClock = tcg.ClockInfo{Clock: 1000, ResetCount: 1, Safe: true}

func attest(kind tcg.AttestType, signer []byte, clock tcg.ClockInfo) []byte {
	out := binary.BigEndian.AppendUint32(nil, tcg.GeneratedValue)
	out = binary.BigEndian.AppendUint16(out, uint16(kind))
	out = appendSized(out, qualified(signer))
	out = appendSized(out, nil) // extraData
	out = appendClock(out, clock)
	return binary.BigEndian.AppendUint64(out, 0x000100000000) // firmwareVersion
}

func appendClock(out []byte, clock tcg.ClockInfo) []byte {
	out = binary.BigEndian.AppendUint64(out, clock.Clock)
	out = binary.BigEndian.AppendUint32(out, clock.ResetCount)
	out = binary.BigEndian.AppendUint32(out, clock.RestartCount)
	if clock.Safe {
		return append(out, 1)
	}
	return append(out, 0)
}

func qualified(name []byte) []byte {
	q, err := tcg.EndorsementQualifiedName(name)
	if err != nil {
		panic(err) // cannot happen: all templates have supported name algorithms
	}
	return q
}

func appendSized(out, b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(out, uint16(len(b))), b...)
}

// ErrCredential means that the credential was made for another EK or another IAK.
var ErrCredential = errors.New("fleet: TPM_RC_INTEGRITY: the credential was made for another EK or IAK")

// ActivateCredential does the same as TPM2_ActivateCredential (Part 1, 24) with the device's EK and
// IAK.
func (d *Device) ActivateCredential(credentialBlob, secret []byte) ([]byte, error) {
	seed, err := d.decapsulate(secret)
	if err != nil {
		return nil, ErrCredential
	}
	p := d.EK.Public
	h, err := p.NameAlg.Hash()
	if err != nil {
		return nil, err
	}
	name := d.IAK.Name()
	macKey := tpm2.KDFa(h, seed, "INTEGRITY", nil, nil, h.Size()*8)
	if len(credentialBlob) < 2+h.Size() {
		return nil, ErrCredential
	}
	mac, enc := credentialBlob[2:2+h.Size()], credentialBlob[2+h.Size():]
	m := hmac.New(h.New, macKey)
	m.Write(enc)
	m.Write(name)
	if !hmac.Equal(m.Sum(nil), mac) {
		return nil, ErrCredential
	}
	symKey := tpm2.KDFa(h, seed, "STORAGE", name, nil, int(p.SymmetricBits))
	block, err := aes.NewCipher(symKey)
	if err != nil {
		return nil, err
	}
	plain := make([]byte, len(enc))
	//lint:ignore SA1019 CFB is the TPM's mode (Part 1, 24.5); the HMAC was checked above.
	cipher.NewCFBDecrypter(block, make([]byte, aes.BlockSize)).XORKeyStream(plain, enc)
	if len(plain) < 2 || int(binary.BigEndian.Uint16(plain)) != len(plain)-2 {
		return nil, ErrCredential
	}
	return plain[2:], nil
}

func (d *Device) decapsulate(secret []byte) ([]byte, error) {
	p := d.EK.Public
	h, err := p.NameAlg.Hash()
	if err != nil {
		return nil, err
	}
	if key, ok := d.EK.Private.(*rsa.PrivateKey); ok {
		return rsa.DecryptOAEP(h.New(), nil, key, secret, []byte("IDENTITY\x00"))
	}
	key, err := d.EK.Private.(*ecdsa.PrivateKey).ECDH()
	if err != nil {
		return nil, err
	}
	point, err := tpm2.Unmarshal[tpm2.TPMSECCPoint](secret)
	if err != nil {
		return nil, err
	}
	size := (curve(p.Curve).Params().BitSize + 7) / 8
	if len(point.X.Buffer) > size || len(point.Y.Buffer) > size {
		return nil, ErrCredential
	}
	raw := make([]byte, 1+2*size)
	raw[0] = 4
	copy(raw[1+size-len(point.X.Buffer):], point.X.Buffer)
	copy(raw[1+2*size-len(point.Y.Buffer):], point.Y.Buffer)
	peer, err := key.Curve().NewPublicKey(raw)
	if err != nil {
		return nil, err
	}
	z, err := key.ECDH(peer)
	if err != nil {
		return nil, err
	}
	x := make([]byte, size)
	copy(x[size-len(p.X):], p.X)
	return tpm2.KDFe(h, z, "IDENTITY", raw[1:1+size], x, h.Size()*8), nil
}

// WithNewIdentity returns a device with the same TPM and EK, but another IAK and IDevID key. A real
// TPM cannot make other keys from the same templates. Tests use this method because it is much
// faster than New, which makes an endorsement key.
func (d *Device) WithNewIdentity() (*Device, error) {
	n := *d
	var err error
	if n.IAK, err = NewKey(tcg.IAKTemplates[1], nil); err != nil {
		return nil, err
	}
	n.IDevID, err = NewKey(tcg.IDevIDTemplates[1], nil)
	return &n, err
}

// WithoutCertificate returns the device with another EK, of the template L-2, and without an EK
// certificate. The TPMs of some makers have no EK certificate.
func (d *Device) WithoutCertificate() (*Device, error) {
	n, err := d.WithNewIdentity()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(tcg.EKTemplates, func(t tcg.Template) bool { return t.Name == "L-2" })
	if n.EK, err = NewKey(tcg.EKTemplates[i], nil); err != nil {
		return nil, err
	}
	n.EKCert, n.Chain, n.Serial = n.EK.Public.Raw, nil, wire.NewID()
	return n, nil
}
