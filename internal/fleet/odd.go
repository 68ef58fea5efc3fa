package fleet

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"time"

	"gangway/tcg"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Odd describes how an EK certificate deviates from the EK profile, including encodings that
// x509.CreateCertificate cannot make. The zero value describes a certificate without deviations.
type Odd struct {
	Serial     []byte // content of the INTEGER; nil means a valid serial number
	SHA1       bool   // signed with SHA-1
	OAEP       bool   // the RSA key has the type id-RSAES-OAEP
	KeyUsage   []byte // content of the BIT STRING; nil means the right usage; empty means no extension
	NoEKUsage  bool   // the extended key usage is missing
	NoSAN      bool
	Subject    bool      // the TPM's attributes are in the subject
	StringTag  casn1.Tag // string type of the TPM's attributes; 0 means UTF8String
	OneRDN     bool      // all attributes are in one SET, not in DER order
	Lax        bool      // the SAN is not critical
	Defaults   bool      // the default values cA FALSE and critical FALSE are encoded, which DER forbids
	OtherNames bool      // the SAN has other names before and after the directory name
	NotAfter   time.Time // zero means in ten years
}

var (
	oidOAEP          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7}
	oidRSASHA1       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 5}
	oidRSASHA256     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
	oidExtSAN        = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidExtConstraint = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidExtKeyUsage   = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidExtUsages     = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// SignOdd issues a certificate with these deviations for the key `pub` and returns the
// certificate's DER. The maker's intermediate CA signs the certificate, and the signature is valid.
func (m *Maker) SignOdd(pub crypto.PublicKey, o Odd) ([]byte, error) {
	tbs, err := m.oddTBS(pub, o)
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	hash := crypto.SHA256
	if o.SHA1 {
		hash = crypto.SHA1
	}
	h := hash.New()
	h.Write(tbs)
	signature, err := m.key.Sign(rand.Reader, h.Sum(nil), hash)
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	var b cryptobyte.Builder
	b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		addAlgorithm(b, o)
		b.AddASN1BitString(signature)
	})
	return b.Bytes()
}

func addAlgorithm(b *cryptobyte.Builder, o Odd) {
	b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
		if o.SHA1 {
			b.AddASN1ObjectIdentifier(oidRSASHA1)
		} else {
			b.AddASN1ObjectIdentifier(oidRSASHA256)
		}
		b.AddASN1NULL()
	})
}

func (m *Maker) oddTBS(pub crypto.PublicKey, o Odd) ([]byte, error) {
	spki, err := oddKey(pub, o)
	if err != nil {
		return nil, err
	}
	until := o.NotAfter
	if until.IsZero() {
		until = time.Now().AddDate(10, 0, 0)
	}
	if o.Serial == nil {
		o.Serial = []byte{0x01, 0x02, 0x03, 0x04}
	}
	var b cryptobyte.Builder
	b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(casn1.Tag(0).Constructed().ContextSpecific(), func(b *cryptobyte.Builder) { b.AddASN1Int64(2) })
		b.AddASN1(casn1.INTEGER, func(b *cryptobyte.Builder) { b.AddBytes(o.Serial) })
		addAlgorithm(b, o)
		b.AddBytes(m.Intermediate.RawSubject)
		b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1UTCTime(until.AddDate(-20, 0, 0))
			b.AddASN1UTCTime(until)
		})
		if o.Subject {
			addTPMName(b, o)
		} else {
			b.AddASN1(casn1.SEQUENCE, func(*cryptobyte.Builder) {})
		}
		b.AddBytes(spki)
		b.AddASN1(casn1.Tag(3).Constructed().ContextSpecific(), func(b *cryptobyte.Builder) {
			b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) { addOddExtensions(b, pub, o) })
		})
	})
	return b.Bytes()
}

func oddKey(pub crypto.PublicKey, o Odd) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	key, isRSA := pub.(*rsa.PublicKey)
	if err != nil || !o.OAEP || !isRSA {
		return spki, err
	}
	var b cryptobyte.Builder
	b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidOAEP)
			b.AddASN1(casn1.SEQUENCE, func(*cryptobyte.Builder) {})
		})
		b.AddASN1BitString(x509.MarshalPKCS1PublicKey(key))
	})
	return b.Bytes()
}

func addOddExtensions(b *cryptobyte.Builder, pub crypto.PublicKey, o Odd) {
	extension := func(id asn1.ObjectIdentifier, critical bool, value func(*cryptobyte.Builder)) {
		b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(id)
			if critical {
				b.AddASN1Boolean(true)
			} else if o.Defaults {
				b.AddASN1Boolean(false)
			}
			b.AddASN1(casn1.OCTET_STRING, value)
		})
	}
	usage := o.KeyUsage
	if usage == nil {
		usage = []byte{5, 0x20} // keyEncipherment
		if _, ok := pub.(*ecdsa.PublicKey); ok {
			usage = []byte{3, 0x08} // keyAgreement
		}
	}
	extension(oidExtConstraint, true, func(b *cryptobyte.Builder) {
		b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
			if o.Defaults {
				b.AddASN1Boolean(false)
			}
		})
	})
	if len(usage) > 0 {
		extension(oidExtKeyUsage, true, func(b *cryptobyte.Builder) {
			b.AddASN1(casn1.BIT_STRING, func(b *cryptobyte.Builder) { b.AddBytes(usage) })
		})
	}
	if !o.NoEKUsage {
		extension(oidExtUsages, false, func(b *cryptobyte.Builder) {
			b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(tcg.OIDEKCertificate) })
		})
	}
	if o.NoSAN {
		return
	}
	extension(oidExtSAN, !o.Lax, func(b *cryptobyte.Builder) {
		b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
			email := func() {
				b.AddASN1(casn1.Tag(1).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte("tpm@maker.example")) })
			}
			if o.OtherNames {
				email()
			}
			b.AddASN1(casn1.Tag(4).Constructed().ContextSpecific(), func(b *cryptobyte.Builder) { addTPMName(b, o) })
			if o.OtherNames {
				email()
			}
		})
	})
}

// addTPMName adds a Name with the TPM's attributes: manufacturer FAKE, a model and a version.
func addTPMName(b *cryptobyte.Builder, o Odd) {
	tag := o.StringTag
	if tag == 0 {
		tag = casn1.UTF8String
	}
	names := []struct {
		id   asn1.ObjectIdentifier
		text string
	}{{tcg.OIDManufacturer, "id:46414B45"}, {tcg.OIDVersion, "id:00010000"}, {tcg.OIDModel, "odd one"}}
	attribute := func(b *cryptobyte.Builder, i int) {
		b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(names[i].id)
			b.AddASN1(tag, func(b *cryptobyte.Builder) {
				for _, c := range []byte(names[i].text) {
					switch tag {
					case casn1.Tag(30): // BMPString
						b.AddUint16(uint16(c))
					case casn1.Tag(28): // UniversalString
						b.AddUint32(uint32(c))
					default:
						b.AddUint8(c)
					}
				}
			})
		})
	}
	b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
		if o.OneRDN {
			b.AddASN1(casn1.SET, func(b *cryptobyte.Builder) {
				for i := range names {
					attribute(b, i)
				}
			})
			return
		}
		for i := range names {
			b.AddASN1(casn1.SET, func(b *cryptobyte.Builder) { attribute(b, i) })
		}
	})
}
