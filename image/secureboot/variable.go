package secureboot

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unicode/utf16"

	"github.com/google/uuid"
	"github.com/smallstep/pkcs7"
)

// Variable is the name of a UEFI variable that configures Secure Boot.
type Variable string

// The variables in the order in which they must be written to firmware. PK must be last, because
// writing it ends setup mode.
const (
	DB  Variable = "db"
	KEK Variable = "KEK"
	PK  Variable = "PK"
)

// GUIDs of UEFI 2.10, sections 3.3, 32.3.1, 32.4.1 and 32.2.4.
var (
	globalVariable = efiGUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
	imageSecurity  = efiGUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
	listOfX509     = efiGUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
	certOfPKCS7    = efiGUID("4aafd29d-68df-49ee-8aa9-347d375665a7")
)

// efiGUID encodes a GUID as UEFI does: the first three fields are little-endian (UEFI 2.10,
// appendix A).
func efiGUID(s string) [16]byte {
	u := uuid.MustParse(s)
	return [16]byte{u[3], u[2], u[1], u[0], u[5], u[4], u[7], u[6], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]}
}

func (v Variable) vendor() [16]byte {
	if v == DB {
		return imageSecurity
	}
	return globalVariable
}

const (
	// attributes are NON_VOLATILE, BOOTSERVICE_ACCESS, RUNTIME_ACCESS and
	// TIME_BASED_AUTHENTICATED_WRITE_ACCESS.
	attributes = 0x27

	timeSize = 16 // EFI_TIME
	certHead = 24 // size of a WIN_CERTIFICATE_UEFI_GUID without its data
	listHead = 28 // size of an EFI_SIGNATURE_LIST without its signatures

	certRevision = 0x0200
	certTypeGUID = 0x0EF1
	maxVariable  = 64 << 10 // bytes; firmware accepts less, so a larger file is not a variable
)

// The function `sign` makes a signed variable: an EFI_VARIABLE_AUTHENTICATION_2, followed by one
// signature list per certificate.
func sign(v Variable, certs []*x509.Certificate, owner [16]byte, key crypto.Signer, leaf *x509.Certificate, at time.Time) ([]byte, error) {
	var content []byte
	for _, c := range certs {
		size := uint32(len(owner) + len(c.Raw))
		content = append(content, listOfX509[:]...)
		content = binary.LittleEndian.AppendUint32(content, listHead+size)
		content = binary.LittleEndian.AppendUint32(content, 0) // no header
		content = binary.LittleEndian.AppendUint32(content, size)
		content = append(content, owner[:]...)
		content = append(content, c.Raw...)
	}
	stamp := efiTime(at)
	signed, err := signDetached(v.signedText(stamp, content), key, leaf)
	if err != nil {
		return nil, err
	}
	out := binary.LittleEndian.AppendUint32(stamp, uint32(certHead+len(signed)))
	out = binary.LittleEndian.AppendUint16(out, certRevision)
	out = binary.LittleEndian.AppendUint16(out, certTypeGUID)
	out = append(out, certOfPKCS7[:]...)
	out = append(out, signed...)
	return append(out, content...), nil
}

// signedText returns the bytes that the signature covers.
func (v Variable) signedText(stamp, content []byte) (b []byte) {
	for _, u := range utf16.Encode([]rune(string(v))) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	vendor := v.vendor()
	b = append(b, vendor[:]...)
	b = binary.LittleEndian.AppendUint32(b, attributes)
	b = append(b, stamp...)
	return append(b, content...)
}

// signDetached makes a PKCS #7 SignedData with SHA-256 that does not contain the signed text. It
// has no attributes and is not wrapped in a ContentInfo, because all firmware reads this form.
func signDetached(text []byte, key crypto.Signer, leaf *x509.Certificate) ([]byte, error) {
	s, err := pkcs7.NewSignedData(text)
	if err != nil {
		return nil, fmt.Errorf("secureboot: %w", err)
	}
	s.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	s.SetEncryptionAlgorithm(pkcs7.OIDEncryptionAlgorithmRSA)
	if err := s.SignWithoutAttr(leaf, key, pkcs7.SignerInfoConfig{}); err != nil {
		return nil, fmt.Errorf("secureboot: %w", err)
	}
	s.Detach()
	der, err := s.Finish()
	if err != nil {
		return nil, fmt.Errorf("secureboot: %w", err)
	}
	var info contentInfo
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil, fmt.Errorf("secureboot: %w", err)
	}
	return info.Content.Bytes, nil
}

// contentInfo is the ContentInfo of RFC 2315, 7.
type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"explicit,optional,tag:0"`
}

// efiTime encodes a time as an EFI_TIME in UTC, with a resolution of one second.
func efiTime(t time.Time) []byte {
	t = t.UTC()
	b := binary.LittleEndian.AppendUint16(nil, uint16(t.Year()))
	b = append(b, byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second()))
	return append(b, make([]byte, timeSize-len(b))...)
}

// ErrVariable means that the data is not a valid signed variable.
var ErrVariable = errors.New("secureboot: this is not a signed variable of Secure Boot, or it is damaged")

// parse checks the signature of a signed variable and returns the variable's certificates. The
// variable must be signed by the key of one of the certificates `by`. parse refuses a variable that
// contains anything except certificates, for example hashes of programs, because a person who
// reviews the keys before they are enrolled sees only the certificates.
func parse(v Variable, b []byte, by ...*x509.Certificate) ([]*x509.Certificate, error) {
	stamp, signed, content, err := split(b)
	if err != nil {
		return nil, err
	}
	if err := verify(v.signedText(stamp, content), signed, by); err != nil {
		return nil, err
	}
	return certificates(content)
}

// The function `unverified` returns the certificates of a variable without checking its signature.
func unverified(b []byte) ([]*x509.Certificate, error) {
	_, _, content, err := split(b)
	if err != nil {
		return nil, err
	}
	return certificates(content)
}

func split(b []byte) (stamp, signed, content []byte, err error) {
	if len(b) < timeSize+certHead || len(b) > maxVariable {
		return nil, nil, nil, ErrVariable
	}
	stamp, head := b[:timeSize], b[timeSize:]
	size := uint64(binary.LittleEndian.Uint32(head))
	if size < certHead || size > uint64(len(head)) || binary.LittleEndian.Uint16(head[4:]) != certRevision ||
		binary.LittleEndian.Uint16(head[6:]) != certTypeGUID || !bytes.Equal(head[8:certHead], certOfPKCS7[:]) {
		return nil, nil, nil, ErrVariable
	}
	return stamp, head[certHead:size], head[size:], nil
}

// verify checks that `signed`, a SignedData in the form that signDetached makes, is a signature of
// `text` by the key of one of the certificates `by`.
func verify(text, signed []byte, by []*x509.Certificate) error {
	der, err := asn1.Marshal(contentInfo{pkcs7.OIDSignedData, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: signed}})
	if err != nil {
		return ErrVariable
	}
	p, err := pkcs7.Parse(der)
	if err != nil || len(p.Signers) != 1 {
		return ErrVariable
	}
	for _, c := range by {
		if c.CheckSignature(x509.SHA256WithRSA, text, p.Signers[0].EncryptedDigest) == nil {
			return nil
		}
	}
	return fmt.Errorf("%w: the variable is signed by an unexpected key", ErrVariable)
}

// The function `certificates` returns the certificates in a sequence of EFI_SIGNATURE_LISTs (UEFI
// 2.10, 32.4.1).
func certificates(b []byte) (certs []*x509.Certificate, err error) {
	for len(b) > 0 {
		if len(b) < listHead || !bytes.Equal(b[:16], listOfX509[:]) {
			return nil, ErrVariable
		}
		all, header, one := uint64(binary.LittleEndian.Uint32(b[16:])), binary.LittleEndian.Uint32(b[20:]), uint64(binary.LittleEndian.Uint32(b[24:]))
		if header != 0 || one <= 16 || all != listHead+one || all > uint64(len(b)) {
			return nil, ErrVariable
		}
		c, err := x509.ParseCertificate(b[listHead+16 : all])
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrVariable, err)
		}
		certs, b = append(certs, c), b[all:]
	}
	if len(certs) == 0 {
		return nil, ErrVariable
	}
	return certs, nil
}
