package tcg

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// EKCertificate is an endorsement key certificate (EK profile 3). Certificates of some TPM makers
// deviate from the profile. Known deviations are accepted and listed in Quirks.
type EKCertificate struct {
	// Certificate is the certificate as crypto/x509 parsed it. Its UnhandledCriticalExtensions do
	// not list the SAN: crypto/x509 cannot handle a critical SAN that contains only a directory
	// name, but this package reads it.
	Certificate *x509.Certificate
	// PublicKey is an *rsa.PublicKey or *ecdsa.PublicKey. It is set even if the key's type is
	// id-RSAES-OAEP, which crypto/x509 does not support.
	PublicKey crypto.PublicKey

	// TPM attributes of the SAN's directory name (EK profile 3.2.9), without control characters. An
	// attribute that the certificate does not have is empty.
	Manufacturer string // such as "IFX"; an id that is not ASCII is unchanged: "id:00001014"
	Model        string
	Version      string

	// Quirks describes each accepted deviation from the profile, in words for people.
	Quirks []string
}

// TrimCertificate returns the DER certificate in `b`. The certificate may be wrapped as in a TPM
// 1.2 (TCG PC client, 7.4.4) or be followed by the padding of its NV area (all 0x00 or all 0xFF).
// Anything else after the certificate is an error.
func TrimCertificate(b []byte) ([]byte, error) {
	der, _, err := trimCertificate(b)
	return der, err
}

func trimCertificate(b []byte) (der []byte, quirks []string, err error) {
	// The bytes are a TCG_PCCLIENT_STORED_CERT (tag 0x1001, certType 0x00, size u16) that contains
	// a TCG_FULL_CERT (tag 0x1002).
	if len(b) >= 7 && b[0] == 0x10 && b[1] == 0x01 && b[2] == 0x00 && b[5] == 0x10 && b[6] == 0x02 {
		size := int(b[3])<<8 | int(b[4])
		if size < 2 || 5+size > len(b) {
			return nil, nil, errors.New("tcg: EK certificate: its TPM 1.2 wrapper has a wrong size")
		}
		rest := b[5+size:]
		if !isPadding(rest) {
			return nil, nil, errors.New("tcg: EK certificate: the bytes after its TPM 1.2 wrapper are not padding")
		}
		if quirks = append(quirks, QuirkWrapped); len(rest) > 0 {
			quirks = append(quirks, QuirkPadded)
		}
		b = b[7 : 5+size]
	}
	s := cryptobyte.String(b)
	var cert cryptobyte.String
	if !s.ReadASN1Element(&cert, casn1.SEQUENCE) {
		return nil, nil, errors.New("tcg: EK certificate: not DER")
	}
	if len(s) > 0 {
		if !isPadding(s) {
			return nil, nil, errors.New("tcg: EK certificate: the bytes after it are not padding")
		}
		if !slices.Contains(quirks, QuirkPadded) {
			quirks = append(quirks, QuirkPadded)
		}
	}
	return cert, quirks, nil
}

func isPadding(b []byte) bool {
	for _, v := range b {
		if v != b[0] || v != 0x00 && v != 0xFF {
			return false
		}
	}
	return true
}

// ParseEKCertificate parses an EK certificate. It accepts known mistakes of makers and lists them
// in Quirks. It does not check the signature or the key usage.
func ParseEKCertificate(b []byte) (*EKCertificate, error) {
	if len(b) > MaxCertificate {
		return nil, fmt.Errorf("tcg: the EK certificate has %d bytes; at most %d are allowed", len(b), MaxCertificate)
	}
	der, quirks, err := trimCertificate(b)
	if err != nil {
		return nil, err
	}
	cert, more, err := parseLenient(der)
	if err != nil {
		return nil, fmt.Errorf("tcg: EK certificate: %w", err)
	}
	e := &EKCertificate{Certificate: cert, PublicKey: cert.PublicKey, Quirks: append(quirks, more...)}
	if e.PublicKey == nil {
		if e.PublicKey, err = oaepKey(cert.RawSubjectPublicKeyInfo); err != nil {
			return nil, fmt.Errorf("tcg: EK certificate: %w", err)
		}
		e.quirk(QuirkOAEP)
	}
	if err := e.readSAN(); err != nil {
		return nil, fmt.Errorf("tcg: EK certificate: subject alternative name: %w", err)
	}
	e.readUsage()
	e.readEncoding()
	return e, nil
}

// parseLenient parses the certificate `der` with crypto/x509. If crypto/x509 refuses the serial
// number, parseLenient replaces the serial number with a valid one of the same length and parses
// again. The raw fields of the result are the raw fields of `der`, so a later signature check
// covers the bytes that the maker signed.
func parseLenient(der []byte) (*x509.Certificate, []string, error) {
	cert, err := x509.ParseCertificate(der)
	if err == nil {
		var quirks []string
		if cert.SerialNumber.BitLen() > 159 {
			quirks = append(quirks, QuirkSerialLong)
		}
		return cert, quirks, nil
	}
	at, size, ok := serialContent(der)
	if !ok {
		return nil, nil, err
	}
	serial := der[at : at+size]
	var quirks []string
	if serial[0]&0x80 != 0 {
		quirks = append(quirks, QuirkSerialNegative)
	}
	if size > 1 && (serial[0] == 0 && serial[1]&0x80 == 0 || serial[0] == 0xFF && serial[1]&0x80 != 0) {
		quirks = append(quirks, QuirkSerialPadded)
	}
	if quirks == nil {
		return nil, nil, err
	}
	if size > 20 {
		quirks = append(quirks, QuirkSerialLong)
	}
	patched := bytes.Clone(der)
	patched[at] = 0x01 // a positive number in its shortest form
	cert, err2 := x509.ParseCertificate(patched)
	if err2 != nil {
		return nil, nil, err
	}
	offset := bytes.Index(patched, cert.RawTBSCertificate)
	cert.RawTBSCertificate = der[offset : offset+len(cert.RawTBSCertificate)]
	cert.Raw = der
	cert.SerialNumber = new(big.Int).SetBytes(serial)
	return cert, quirks, nil
}

// serialContent returns the offset and length of the serial number's content.
func serialContent(der []byte) (at, size int, ok bool) {
	var cert, tbs, serial cryptobyte.String
	s := cryptobyte.String(der)
	if !s.ReadASN1(&cert, casn1.SEQUENCE) {
		return 0, 0, false
	}
	at = len(der) - len(s) - len(cert)
	before := len(cert)
	if !cert.ReadASN1(&tbs, casn1.SEQUENCE) {
		return 0, 0, false
	}
	at += before - len(cert) - len(tbs)
	before = len(tbs)
	if !tbs.SkipOptionalASN1(casn1.Tag(0).Constructed().ContextSpecific()) ||
		!tbs.ReadASN1(&serial, casn1.INTEGER) || len(serial) == 0 {
		return 0, 0, false
	}
	return at + before - len(tbs) - len(serial), len(serial), true
}

// oaepKey reads the RSA key of a SubjectPublicKeyInfo whose algorithm is id-RSAES-OAEP
// (1.2.840.113549.1.1.7). The key itself has the usual encoding.
func oaepKey(spki []byte) (crypto.PublicKey, error) {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		PublicKey asn1.BitString
	}
	if rest, err := asn1.Unmarshal(spki, &info); err != nil || len(rest) > 0 {
		return nil, errors.New("unreadable public key")
	}
	if !info.Algorithm.Algorithm.Equal(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7}) {
		return nil, fmt.Errorf("public key of unknown type %v", info.Algorithm.Algorithm)
	}
	key, err := x509.ParsePKCS1PublicKey(info.PublicKey.RightAlign())
	if err != nil {
		return nil, err
	}
	return key, nil
}

var oidSAN = asn1.ObjectIdentifier{2, 5, 29, 17}

// readSAN reads the TPM's attributes from the SAN's directory names. If the directory names have no
// such attribute, readSAN reads the subject.
func (e *EKCertificate) readSAN() error {
	cert := e.Certificate
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(oidSAN) {
			continue
		}
		if err := e.readNames(ext.Value); err != nil {
			return err
		}
		if !ext.Critical && len(cert.RawSubject) <= 2 {
			e.quirk(QuirkNotCritical)
		}
	}
	if e.Manufacturer == "" {
		e.quirk(QuirkNoMaker)
		if err := e.readName(cert.RawSubject); err == nil && e.Manufacturer != "" {
			e.quirk(QuirkSubject)
		}
	}
	cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions, func(id asn1.ObjectIdentifier) bool {
		return id.Equal(oidSAN)
	})
	return nil
}

func (e *EKCertificate) readNames(der []byte) error {
	s := cryptobyte.String(der)
	var names cryptobyte.String
	if !s.ReadASN1(&names, casn1.SEQUENCE) || !s.Empty() {
		return errors.New("not a sequence")
	}
	for !names.Empty() {
		var name cryptobyte.String
		var tag casn1.Tag
		if !names.ReadAnyASN1(&name, &tag) {
			return errors.New("unreadable name")
		}
		if tag != casn1.Tag(4).Constructed().ContextSpecific() {
			continue // not a directoryName
		}
		if err := e.readName(name); err != nil {
			return err
		}
	}
	return nil
}

// readName reads the TPM's attributes from one directory name.
func (e *EKCertificate) readName(der []byte) error {
	return eachAttribute(der, func(a *attribute) {
		var into *string
		switch string(a.id) {
		case derManufacturer:
			into = &e.Manufacturer
		case derModel:
			into = &e.Model
		case derVersion:
			into = &e.Version
		default:
			return
		}
		if a.tag != casn1.UTF8String {
			e.quirk(QuirkStringType)
		}
		*into = printable64(a.text())
		if into == &e.Manufacturer {
			*into = manufacturer(*into)
		}
	}, func() { e.quirk(QuirkSetOrder) })
}

// printable64 returns `Printable(s)`, shortened to at most 64 characters and without space around
// it.
func printable64(s string) string {
	s = Printable(s)
	if len(s) > 64 {
		if r := []rune(s); len(r) > 64 {
			s = string(r[:64])
		}
	}
	return strings.TrimSpace(s)
}

// Printable removes every character that a terminal would interpret rather than display, and the
// characters that change the direction of text. Call Printable before you display a text from a TPM
// maker or a machine.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}

// manufacturer decodes the hexadecimal manufacturer id of a certificate: "id:49465800" becomes
// "IFX". If the id is not ASCII, manufacturer returns the id unchanged.
func manufacturer(s string) string {
	hex, ok := strings.CutPrefix(s, "id:")
	n, err := strconv.ParseUint(hex, 16, 32)
	if !ok || len(hex) != 8 || err != nil {
		return s
	}
	var out []byte
	for shift := 24; shift >= 0; shift -= 8 {
		v := byte(n >> shift)
		if v == 0 || v == ' ' {
			continue
		}
		if v < '!' || v > '~' {
			return s
		}
		out = append(out, v)
	}
	if len(out) == 0 {
		return s
	}
	return string(out)
}

// HasEKUsage reports whether the extended key usages of the certificate include the usage for
// endorsement keys (2.23.133.8.1).
func (e *EKCertificate) HasEKUsage() bool {
	return slices.ContainsFunc(e.Certificate.UnknownExtKeyUsage, OIDEKCertificate.Equal)
}
