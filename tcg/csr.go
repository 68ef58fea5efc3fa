package tcg

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
)

// csrVersion is structVer of both TCG-CSR-IDEVID structures (DevID, 13.1).
const csrVersion = 0x00000100

// Largest fields accepted in a TCG-CSR-IDEVID, in bytes.
const (
	MaxCSR          = 256 << 10 // the whole structure
	MaxProduct      = 256       // prodModel, prodSerial
	MaxCAData       = 64 << 10  // prodCaData: the ownership proof and the EK's chain
	MaxEventLog     = 160 << 10 // bootEvntLog
	MaxCertificate  = 8 << 10   // ekCert
	maxCSRSignature = MaxSignature
)

// CSR is a TCG-CSR-IDEVID (DevID, 13.1): a device's request for an IDevID
// certificate, signed by the IDevID key. All integers are big-endian.
//
//	structVer     u32  0x00000100
//	contentsSize  u32
//	signatureSize u32
//	contents      TCG-CSR-IDEVID-CONTENT
//	signature     TPMT_SIGNATURE over contents
//
// and the contents:
//
//	structVer     u32  0x00000100
//	hashAlgId     u32  a TPM_ALG_ID
//	hashSize      u32
//	hash               of all bytes after it
//	13 sizes      u32 each, in the order of the fields below, then padSize
//	13 fields          prodModel ... sgnCertifyInfoSignature, pad
type CSR struct {
	ProdModel      []byte // UTF-8
	ProdSerial     []byte // UTF-8
	CAData         []byte // prodCaData: data that the CA defines; for the hub, see wire.CAData
	EventLog       []byte // bootEvntLog, may be empty
	EKCert         []byte // X.509 DER
	AttestPub      []byte // TPMT_PUBLIC of the IAK
	AtCreateTkt    []byte // may be empty
	AtCertifyInfo  []byte // may be empty
	AtCertifySig   []byte // may be empty
	SigningPub     []byte // TPMT_PUBLIC of the IDevID key
	SgnCertifyInfo []byte // TPMS_ATTEST in which the IAK certifies the IDevID key
	SgnCertifySig  []byte // TPMT_SIGNATURE of it

	// ParseCSR sets these fields. Encode does not read them.
	Contents  []byte // what Signature signs
	Signature []byte // TPMT_SIGNATURE
	HashAlg   AlgID
}

// fields lists the fields of variable size in wire order, with their smallest and largest sizes in
// bytes. `min` is positive for a field that must not be empty.
func (r *CSR) fields() [12]struct {
	name     string
	p        *[]byte
	min, max int
} {
	return [12]struct {
		name     string
		p        *[]byte
		min, max int
	}{
		{"prodModel", &r.ProdModel, 1, MaxProduct},
		{"prodSerial", &r.ProdSerial, 1, MaxProduct},
		{"prodCaData", &r.CAData, 0, MaxCAData},
		{"bootEvntLog", &r.EventLog, 0, MaxEventLog},
		{"ekCert", &r.EKCert, 1, MaxCertificate},
		{"attestPub", &r.AttestPub, 1, MaxPublic},
		{"atCreateTkt", &r.AtCreateTkt, 0, MaxAttest},
		{"atCertifyInfo", &r.AtCertifyInfo, 0, MaxAttest},
		{"atCertifyInfoSignature", &r.AtCertifySig, 0, MaxSignature},
		{"signingPub", &r.SigningPub, 1, MaxPublic},
		{"sgnCertifyInfo", &r.SgnCertifyInfo, 1, MaxAttest},
		{"sgnCertifyInfoSignature", &r.SgnCertifySig, 1, MaxSignature},
	}
}

// Encode makes the TCG-CSR-IDEVID. The pad fills the contents to a multiple of 16 bytes. Encode
// calls `sign` once with the contents. `sign` returns the IDevID key's TPMT_SIGNATURE over the
// contents.
func (r *CSR) Encode(hashAlg AlgID, sign func(contents []byte) ([]byte, error)) ([]byte, error) {
	h, err := hashAlg.Hash()
	if err != nil {
		return nil, err
	}
	fields := r.fields()
	head := 12 + h.Size()
	size := head + 4*(len(fields)+1)
	for _, f := range fields {
		if len(*f.p) < f.min || len(*f.p) > f.max {
			return nil, fmt.Errorf("tcg: TCG-CSR-IDEVID: %s has %d bytes; %d to %d are allowed", f.name, len(*f.p), f.min, f.max)
		}
		size += len(*f.p)
	}
	pad := (16 - size%16) % 16
	b := make([]byte, head, size+pad)
	for _, f := range fields {
		b = binary.BigEndian.AppendUint32(b, uint32(len(*f.p)))
	}
	b = binary.BigEndian.AppendUint32(b, uint32(pad))
	for _, f := range fields {
		b = append(b, *f.p...)
	}
	b = append(b, make([]byte, pad)...)
	binary.BigEndian.PutUint32(b[0:], csrVersion)
	binary.BigEndian.PutUint32(b[4:], uint32(hashAlg))
	binary.BigEndian.PutUint32(b[8:], uint32(h.Size()))
	d := h.New()
	d.Write(b[head:])
	d.Sum(b[12:12])

	sig, err := sign(b)
	if err != nil {
		return nil, fmt.Errorf("tcg: signing the TCG-CSR-IDEVID: %w", err)
	}
	out := make([]byte, 0, 12+len(b)+len(sig))
	out = binary.BigEndian.AppendUint32(out, csrVersion)
	out = binary.BigEndian.AppendUint32(out, uint32(len(b)))
	out = binary.BigEndian.AppendUint32(out, uint32(len(sig)))
	out = append(out, b...)
	out = append(out, sig...)
	if len(out) > MaxCSR {
		return nil, fmt.Errorf("tcg: the TCG-CSR-IDEVID has %d bytes; at most %d are allowed", len(out), MaxCSR)
	}
	return out, nil
}

// ErrCSRHash means that the hash in the contents does not match the bytes after it.
var ErrCSRHash = errors.New("tcg: TCG-CSR-IDEVID: its hash does not match its contents")

// ParseCSR parses a TCG-CSR-IDEVID. It checks every size against its field's bound and against the
// number of bytes left, and it checks the hash. The pad must be at most 15 zero bytes, and nothing
// may follow the structure. ParseCSR does not check the signature. The result aliases `b`.
func ParseCSR(b []byte) (*CSR, error) {
	if len(b) > MaxCSR {
		return nil, fmt.Errorf("tcg: the TCG-CSR-IDEVID has %d bytes; at most %d are allowed", len(b), MaxCSR)
	}
	r := new(CSR)
	c := cursor{b: b}
	if v := c.u32(); c.err == nil && v != csrVersion {
		return nil, fmt.Errorf("tcg: the TCG-CSR-IDEVID has version 0x%08x; only 0x%08x is supported", v, csrVersion)
	}
	contentsSize, signatureSize := c.u32(), c.u32()
	if c.err == nil && (contentsSize > MaxCSR || signatureSize > maxCSRSignature) {
		c.err = errTooLong
	}
	r.Contents = c.take(int(contentsSize))
	r.Signature = c.take(int(signatureSize))
	if err := c.end(); err != nil {
		return nil, fmt.Errorf("tcg: TCG-CSR-IDEVID: %w", err)
	}
	if err := r.parseContents(); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *CSR) parseContents() error {
	c := cursor{b: r.Contents}
	if v := c.u32(); c.err == nil && v != csrVersion {
		return fmt.Errorf("tcg: the TCG-CSR-IDEVID-CONTENT has version 0x%08x; only 0x%08x is supported", v, csrVersion)
	}
	alg, hashSize := c.u32(), c.u32()
	if c.err != nil {
		return fmt.Errorf("tcg: TCG-CSR-IDEVID-CONTENT: %w", c.err)
	}
	if alg > 0xFFFF {
		return fmt.Errorf("tcg: TCG-CSR-IDEVID-CONTENT: hash algorithm 0x%08x is not a TPM_ALG_ID", alg)
	}
	r.HashAlg = AlgID(alg)
	h, err := r.HashAlg.Hash()
	if err != nil {
		return err
	}
	if hashSize != uint32(h.Size()) {
		return fmt.Errorf("tcg: TCG-CSR-IDEVID-CONTENT: the hash has %d bytes; its algorithm requires %d", hashSize, h.Size())
	}
	hash := c.take(h.Size())
	hashed := c.b

	fields := r.fields()
	var sizes [12]uint32
	for i := range fields {
		f := &fields[i]
		sizes[i] = c.u32()
		if c.err == nil && (sizes[i] < uint32(f.min) || sizes[i] > uint32(f.max)) {
			return fmt.Errorf("tcg: TCG-CSR-IDEVID-CONTENT: %s has %d bytes; %d to %d are allowed", f.name, sizes[i], f.min, f.max)
		}
	}
	padSize := c.u32()
	if c.err == nil && padSize > 15 {
		return fmt.Errorf("tcg: TCG-CSR-IDEVID-CONTENT: the pad has %d bytes; at most 15 are allowed", padSize)
	}
	for i := range fields {
		*fields[i].p = c.take(int(sizes[i]))
	}
	for _, v := range c.take(int(padSize)) {
		if v != 0 {
			return errors.New("tcg: TCG-CSR-IDEVID-CONTENT: the pad is not zero")
		}
	}
	if err := c.end(); err != nil {
		return fmt.Errorf("tcg: TCG-CSR-IDEVID-CONTENT: %w", err)
	}
	var sum [64]byte
	if subtle.ConstantTimeCompare(appendHash(sum[:0], h, hashed), hash) != 1 {
		return ErrCSRHash
	}
	return nil
}
