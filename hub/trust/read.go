package trust

import (
	"bytes"
	"context"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"gangway/hub/trust/cabinet"
	"gangway/tcg"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Bounds of a file that Read accepts.
const (
	MaxFile         = cabinet.MaxSize // bytes
	MaxCertificates = 10000
)

// Extensions lists the file name extensions of certificate files. Other files in a cabinet or a
// folder are ignored.
var Extensions = []string{".pem", ".crt", ".cer", ".der", ".p7b", ".p7c"}

// IsCertificateFile reports whether a file's name has one of the Extensions.
func IsCertificateFile(name string) bool {
	return slices.Contains(Extensions, strings.ToLower(path.Ext(name)))
}

// Problem describes a certificate that cannot be read or that may not issue EK certificates.
type Problem struct {
	Where string // the file, and the position of the certificate in it
	Err   error
}

func (p *Problem) Error() string { return p.Where + ": " + p.Err.Error() }
func (p *Problem) Unwrap() error { return p.Err }

// Read reads CA certificates from the bytes of a file. The file may be PEM, with any text between
// the blocks; DER, with one or more certificates in sequence; a PKCS #7 message that contains only
// certificates (.p7b); or a cabinet of such files, like Microsoft's TrustedTpm.cab. `name` is the
// file's name, which occurs in messages and in the Source of each certificate.
//
// `problems` lists the certificates that cannot be used, and `certs` lists the other certificates,
// both in the order of the file. The caller decides whether to accept a file with problems. If the
// file as a whole cannot be read, Read returns an error.
func Read(ctx context.Context, name string, b []byte) (certs []Certificate, problems []*Problem, err error) {
	if len(b) > MaxFile {
		return nil, nil, fmt.Errorf("%s has %d bytes; at most %d are allowed", name, len(b), MaxFile)
	}
	if !cabinet.Is(b) {
		return readFile(name, b)
	}
	files, err := cabinet.Read(ctx, b)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	for _, f := range files {
		if !IsCertificateFile(f.Name) {
			continue
		}
		where := name + ": " + tcg.Printable(f.Name)
		more, wrong, err := readFile(where, f.Content)
		if err != nil {
			wrong = append(wrong, &Problem{where, errors.New("contains no certificate")})
		}
		certs, problems = append(certs, more...), append(problems, wrong...)
		if len(certs)+len(problems) > MaxCertificates {
			return nil, nil, fmt.Errorf("%s contains more than %d certificates", name, MaxCertificates)
		}
	}
	if len(certs)+len(problems) == 0 {
		return nil, nil, fmt.Errorf("%s contains no certificate", name)
	}
	return certs, problems, nil
}

// readFile reads every form except a cabinet.
func readFile(name string, b []byte) (certs []Certificate, problems []*Problem, err error) {
	parts, err := Split(name, b)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range parts {
		err := p.err
		if err == nil {
			var c Certificate
			if c, err = Parse(p.DER, name); err == nil {
				certs = append(certs, c)
				continue
			}
		}
		problems = append(problems, &Problem{p.where, err})
	}
	return certs, problems, nil
}

// Part is one certificate of a file, whose DER Split has found but not parsed.
type Part struct {
	DER   []byte
	where string
	err   error // why no DER was found; nil if DER was found
}

// Err returns a *Problem that says why the part has no DER, or nil if it has.
func (p *Part) Err() error {
	if p.err == nil {
		return nil
	}
	return &Problem{p.where, p.err}
}

// Split finds the certificates in a file's bytes, in every form that Read accepts except a cabinet.
func Split(name string, b []byte) ([]Part, error) {
	var ders [][]byte
	var errs []error
	var err error
	if bytes.Contains(b, pemBegin) {
		ders, errs, err = splitPEM(name, b)
	} else if ders, err = splitDER(b); err != nil {
		err = fmt.Errorf("%s is neither a PEM nor a DER certificate: %w", name, err)
	}
	if err != nil {
		return nil, err
	}
	if len(ders) == 0 {
		return nil, fmt.Errorf("%s contains no certificate", name)
	}
	if len(ders) > MaxCertificates {
		return nil, fmt.Errorf("%s contains more than %d certificates", name, MaxCertificates)
	}
	parts := make([]Part, len(ders))
	for i, der := range ders {
		parts[i] = Part{DER: der, where: name}
		if len(ders) > 1 {
			parts[i].where = fmt.Sprintf("%s, certificate %d", name, i+1)
		}
		if errs != nil {
			parts[i].err = errs[i]
		}
	}
	return parts, nil
}

var pemBegin = []byte("-----BEGIN ")

// splitPEM splits the file `b` at the lines that begin a PEM block. Unlike pem.Decode, which
// silently skips a damaged block, it reports such a block.
func splitPEM(name string, b []byte) (ders [][]byte, errs []error, err error) {
	for _, segment := range bytes.SplitAfter(b, pemBegin)[1:] {
		block, _ := pem.Decode(append(slices.Clone(pemBegin), bytes.TrimSuffix(segment, pemBegin)...))
		switch {
		case block == nil:
			ders, errs = append(ders, nil), append(errs, errors.New("the PEM block is damaged"))
		case block.Type == "CERTIFICATE" || block.Type == "X509 CERTIFICATE":
			ders, errs = append(ders, block.Bytes), append(errs, nil)
		case block.Type == "PKCS7" || block.Type == "CMS":
			more, err := splitPKCS7(block.Bytes)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", name, err)
			}
			ders, errs = append(ders, more...), append(errs, make([]error, len(more))...)
		default:
			return nil, nil, fmt.Errorf("%s contains the PEM block %q; only certificates are accepted", name, tcg.Printable(block.Type))
		}
		if len(ders) > MaxCertificates {
			return nil, nil, fmt.Errorf("%s contains more than %d certificates", name, MaxCertificates)
		}
	}
	return ders, errs, nil
}

// splitDER splits concatenated DER certificates, or one PKCS #7 message.
func splitDER(b []byte) (ders [][]byte, err error) {
	if more, err := splitPKCS7(b); err != errNotPKCS7 {
		return more, err
	}
	s := cryptobyte.String(b)
	for !s.Empty() {
		var der cryptobyte.String
		if !s.ReadASN1Element(&der, casn1.SEQUENCE) {
			return nil, fmt.Errorf("the data at byte %d is not a certificate", len(b)-len(s))
		}
		ders = append(ders, der)
		if len(ders) > MaxCertificates {
			break
		}
	}
	return ders, nil
}

var (
	errNotPKCS7   = errors.New("the data is not a PKCS #7 message")
	oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
)

// splitPKCS7 returns the certificates of a ContentInfo with SignedData (RFC 5652, 5.1). The order
// of the certificates has no meaning. splitPKCS7 does not verify signatures, because these files
// have none. It does not use a library, which would parse the certificates, and so refuse the whole
// file because of one malformed certificate.
func splitPKCS7(b []byte) ([][]byte, error) {
	s := cryptobyte.String(b)
	var info, content, signed, certs cryptobyte.String
	var kind asn1.ObjectIdentifier
	if !s.ReadASN1(&info, casn1.SEQUENCE) || !s.Empty() || !info.ReadASN1ObjectIdentifier(&kind) {
		return nil, errNotPKCS7
	}
	explicit := casn1.Tag(0).Constructed().ContextSpecific()
	var there bool
	if !kind.Equal(oidSignedData) || !info.ReadASN1(&content, explicit) || !info.Empty() ||
		!content.ReadASN1(&signed, casn1.SEQUENCE) || !content.Empty() ||
		!signed.SkipASN1(casn1.INTEGER) || !signed.SkipASN1(casn1.SET) || !signed.SkipASN1(casn1.SEQUENCE) ||
		!signed.ReadOptionalASN1(&certs, &there, explicit) || !there {
		return nil, fmt.Errorf("the PKCS #7 message contains no readable certificates (content type %v)", kind)
	}
	var ders [][]byte
	for !certs.Empty() {
		var der cryptobyte.String
		if !certs.ReadASN1Element(&der, casn1.SEQUENCE) {
			return nil, errors.New("the PKCS #7 message is damaged")
		}
		ders = append(ders, der)
		if len(ders) > MaxCertificates {
			break
		}
	}
	return ders, nil
}
