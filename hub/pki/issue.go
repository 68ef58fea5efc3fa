package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"
)

// IAKRequest has the data for an IAK certificate. All fields except NotAfter, URI and Resident are
// required.
type IAKRequest struct {
	PublicKey crypto.PublicKey // *ecdsa.PublicKey (P-256, P-384, P-521) or *rsa.PublicKey (2048 to 4096 bits)
	DeviceID  string           // 24 hexadecimal digits: the subject's serialNumber
	AKName    []byte           // TPM name of the key: nameAlg (SHA-256, -384 or -512), digest; 34, 50 or 66 bytes
	HWSerial  []byte           // hwSerialNum of the HardwareModuleName, 1 to 128 bytes
	NotBefore time.Time        // 1970 to 9998, to the second; the certificate is valid from five minutes earlier, for peers with slow clocks
	NotAfter  time.Time        // up to 9999, to the second; zero: the certificate never expires
	URI       string           // http(s) URL of at most 512 characters to fetch the certificate again; may be empty
	// Resident is true if a verified EK certificate proves that PublicKey is in a TPM. Only then
	// does the certificate contain the certificate policies of the TCG.
	Resident bool
}

// IDevIDRequest has the data for an IDevID certificate. All fields except Resident are required.
type IDevIDRequest struct {
	PublicKey crypto.PublicKey // as in IAKRequest
	DeviceID  string           // 24 hexadecimal digits: the subject's serialNumber and CN
	AKName    []byte           // TPM name of the IAK that certified the key, as in IAKRequest
	HWSerial  []byte           // as in IAKRequest
	NotBefore time.Time        // as in IAKRequest
	OwnerPRN  string           // the owner: 1 to 128 printable ASCII characters
	TokenID   string           // the join token: 1 to 128 printable ASCII characters
	DevicePRN string           // the device: 1 to 128 printable ASCII characters
	Resident  bool             // as in IAKRequest
}

// issuer is a CA, with those parts of its certificates that are always the same, already encoded.
// As a result, a certificate costs little more than its signature.
type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer

	algorithm []byte // AlgorithmIdentifier of the CA's signatures
	hash      crypto.Hash
	fixed     []byte // the extensions that all certificates of the CA have
	policies  []byte // the certificatePolicies extension: OIDs of the TCG that say what was verified about the key
}

func newIssuer(cert *x509.Certificate, key crypto.Signer, usages, policies []asn1.ObjectIdentifier) (*issuer, error) {
	pub, ok := key.Public().(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("pki: a CA's key must be an ECDSA key")
	}
	i := &issuer{cert: cert, key: key}
	// ecdsa-with-SHA256 or -SHA384 (RFC 5758, 3.2).
	switch pub.Curve {
	case elliptic.P256():
		i.algorithm, i.hash = der(tagSequence, oid(oidECDSAWithSHA256)), crypto.SHA256
	case elliptic.P384():
		i.algorithm, i.hash = der(tagSequence, oid(oidECDSAWithSHA384)), crypto.SHA384
	default:
		return nil, errors.New("pki: a CA's curve must be P-256 or P-384")
	}
	var usage, policy [][]byte
	for _, u := range usages {
		usage = append(usage, oid(u))
	}
	for _, p := range policies {
		policy = append(policy, der(tagSequence, oid(p)))
	}
	i.fixed = slices.Concat(
		extension(oidKeyUsage, true, []byte{tagBitString, 2, 7, 0x80}), // digitalSignature
		extension(oidExtKeyUsage, false, der(tagSequence, usage...)),
		extension(oidAuthorityKeyID, false, der(tagSequence, der(tagContext0, cert.SubjectKeyId))),
	)
	i.policies = extension(oidPolicies, false, der(tagSequence, policy...))
	return i, nil
}

// IssueIAK issues an IAK certificate (DevID 8; docs/protocol.md#7-certificates) and returns the
// certificate's DER. If a field of `r` is not valid, IssueIAK returns an error.
func (h *Hub) IssueIAK(r IAKRequest) ([]byte, error) {
	if err := checkCommon(r.DeviceID, r.AKName, r.HWSerial, r.NotBefore); err != nil {
		return nil, err
	}
	if err := checkURI(r.URI); err != nil {
		return nil, err
	}
	if end := r.NotAfter; !end.IsZero() && (!end.After(r.NotBefore) || end.UTC().Year() > 9999) {
		return nil, fmt.Errorf("pki: a certificate that is valid from %s cannot expire at %s", r.NotBefore.UTC().Format(time.RFC3339), end.UTC().Format(time.RFC3339))
	}
	var hexName [2 * maxTPMName]byte
	name := hexName[:hex.Encode(hexName[:], r.AKName)]
	return h.aca.issue(r.PublicKey, r.NotBefore, r.NotAfter, r.Resident,
		func(b *buffer) {
			b.attribute(derCommonName, "IAK ", string(name[4:20]))
			b.attribute(derSerialNumber, r.DeviceID)
		},
		func(b *buffer) {
			b.altName(r.HWSerial, r.URI)
			b.raw(derPantacorAKName, string(name))
		})
}

// IssueIDevID issues an IDevID certificate (IEEE 802.1AR, 8; DevID 8;
// docs/protocol.md#7-certificates) and returns the certificate's DER. If a field of `r` is not
// valid, IssueIDevID returns an error.
func (h *Hub) IssueIDevID(r IDevIDRequest) ([]byte, error) {
	if err := checkCommon(r.DeviceID, r.AKName, r.HWSerial, r.NotBefore); err != nil {
		return nil, err
	}
	for _, f := range [...]struct{ what, value string }{{"owner's prn", r.OwnerPRN}, {"join token's id", r.TokenID}, {"device's prn", r.DevicePRN}} {
		if f.value == "" || len(f.value) > 128 || !ascii(f.value) {
			return nil, fmt.Errorf("pki: the %s is not 1 to 128 printable ASCII characters", f.what)
		}
	}
	var hexName [2 * maxTPMName]byte
	name := hexName[:hex.Encode(hexName[:], r.AKName)]
	return h.device.issue(r.PublicKey, r.NotBefore, time.Time{}, r.Resident,
		func(b *buffer) {
			b.attribute(derOrganization, organization)
			b.attribute(derCommonName, r.DeviceID)
			b.attribute(derSerialNumber, r.DeviceID)
		},
		func(b *buffer) {
			b.altName(r.HWSerial, "")
			b.raw(derPantacorAKName, string(name))
			b.raw(derPantacorOwner, r.OwnerPRN)
			b.raw(derPantacorJoinToken, r.TokenID)
			b.raw(derPantacorDevice, r.DevicePRN)
		})
}

// forever is 99991231235959Z, the notAfter of certificates that never expire (RFC 5280, 4.1.2.5;
// IEEE 802.1AR, 8.7).
var forever = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// slowClock is how far a peer's clock may be behind the hub's clock.
const slowClock = 5 * time.Minute

// certificateSize is the initial capacity of a certificate's buffer, in bytes. Most certificates
// are smaller.
const certificateSize = 1024

// issue builds a TBSCertificate (RFC 5280, 4.1), signs it, and returns the Certificate in DER. The
// functions `subject` and `extensions` write the parts that depend on the kind of the certificate.
// `issue` does not verify its signature, because every peer verifies it.
func (i *issuer) issue(pub crypto.PublicKey, notBefore, notAfter time.Time, resident bool, subject, extensions func(*buffer)) ([]byte, error) {
	b := make(buffer, 0, certificateSize)
	certificate := b.open(tagSequence)
	tbs := b.open(tagSequence)
	b.add([]byte{tagContext0Constructed, 3, tagInteger, 1, 2}) // version 3
	b.value(tagInteger, serialNumber())
	b.add(i.algorithm, i.cert.RawSubject)
	validity := b.open(tagSequence)
	b.timestamp(notBefore.Add(-slowClock))
	if notAfter.IsZero() {
		b.add(derForever)
	} else {
		b.timestamp(notAfter)
	}
	b.close(validity)
	name := b.open(tagSequence)
	subject(&b)
	b.close(name)
	keyID, err := b.publicKeyInfo(pub)
	if err != nil {
		return nil, err
	}
	context := b.open(tagContext3Constructed)
	list := b.open(tagSequence)
	extensions(&b)
	b.add(i.fixed)
	if resident {
		b.add(i.policies)
	}
	b.extension(derSubjectKeyID, func(b *buffer) { b.value(tagOctetString, keyID[:]) })
	b.close(list)
	b.close(context)
	b.close(tbs)

	// The buffer does not contain the length of the outer SEQUENCE yet, because `close` inserts it
	// later. So the bytes after the start of the SEQUENCE are exactly the TBSCertificate.
	sig, err := i.key.Sign(rand.Reader, i.digest(b[certificate:]), i.hash)
	if err != nil {
		return nil, fmt.Errorf("pki: signing: %w", err)
	}
	b.add(i.algorithm)
	b.value(tagBitString, []byte{0}, sig)
	b.close(certificate)
	return b, nil
}

// digest returns the hash of a message that the CA signs.
func (i *issuer) digest(message []byte) []byte {
	if i.hash == crypto.SHA256 {
		sum := sha256.Sum256(message)
		return sum[:]
	}
	d := i.hash.New()
	d.Write(message)
	return d.Sum(nil)
}

// serialNumber returns the value bytes of an INTEGER of 128 random bits. The number is positive and
// in its shortest form (RFC 5280, 4.1.2.2; X.690, 8.3).
func serialNumber() []byte {
	b := make([]byte, 17) // the first byte stays zero, which makes the number positive
	rand.Read(b[1:])      // never fails
	for len(b) > 1 && b[0] == 0 && b[1] < 0x80 {
		b = b[1:]
	}
	if b[0] == 0 && len(b) == 1 {
		return serialNumber() // zero is not a valid serial number
	}
	return b
}

// Constant parts of certificates, in DER.
var (
	derForever           = timestamp(forever)
	derCommonName        = oid(oidCommonName)
	derSerialNumber      = oid(oidSerialNumber)
	derOrganization      = oid(oidOrganization)
	derSubjectKeyID      = oid(oidSubjectKeyID)
	derSubjectAltName    = oid(oidSubjectAltName)
	derTPMHardware       = oid(oidTPMHardware)
	derHardwareModule    = oid(oidHardwareModule)
	derPantacorAKName    = oid(oidPantacorAKName)
	derPantacorOwner     = oid(oidPantacorOwner)
	derPantacorJoinToken = oid(oidPantacorJoinToken)
	derPantacorDevice    = oid(oidPantacorDevice)
)

// value writes a primitive value with the concatenated bytes of `parts`.
func (b *buffer) value(tag byte, parts ...[]byte) {
	mark := b.open(tag)
	b.add(parts...)
	b.close(mark)
}

// attribute writes a RelativeDistinguishedName with one attribute, which is a PrintableString. The
// argument `id` is the attribute type's OID in DER.
func (b *buffer) attribute(id []byte, value ...string) {
	set := b.open(tagSet)
	pair := b.open(tagSequence)
	b.add(id)
	b.text(tagPrintableString, value...)
	b.close(pair)
	b.close(set)
}

func extension(id asn1.ObjectIdentifier, critical bool, value []byte) []byte {
	if critical {
		return der(tagSequence, oid(id), []byte{tagBoolean, 1, 0xFF}, der(tagOctetString, value))
	}
	return der(tagSequence, oid(id), der(tagOctetString, value))
}

// extension writes a non-critical extension. The argument `id` is the extension's OID in DER, and
// the function `value` writes the extension's value.
func (b *buffer) extension(id []byte, value func(*buffer)) {
	outer := b.open(tagSequence)
	b.add(id)
	inner := b.open(tagOctetString)
	value(b)
	b.close(inner)
	b.close(outer)
}

// The method `raw` writes one of Pantacor's extensions, which are never critical. Its value is the
// bare text without a DER type, as Pantacor's programs expect it.
func (b *buffer) raw(id []byte, value string) {
	b.extension(id, func(b *buffer) { *b = append(*b, value...) })
}

// altName writes the subject alternative name. It has a HardwareModuleName (RFC 4108, 5) and, if
// `uri` is not empty, a URI.
func (b *buffer) altName(hwSerial []byte, uri string) {
	b.extension(derSubjectAltName, func(b *buffer) {
		names := b.open(tagSequence)
		other := b.open(tagContext0Constructed) // otherName
		b.add(derHardwareModule)
		explicit := b.open(tagContext0Constructed)
		module := b.open(tagSequence)
		b.add(derTPMHardware)
		b.value(tagOctetString, hwSerial)
		b.close(module)
		b.close(explicit)
		b.close(other)
		if uri != "" {
			b.text(tagContext6, uri)
		}
		b.close(names)
	})
}

// publicKeyInfo writes the SubjectPublicKeyInfo of an allowed public key. The result `keyID` is the
// key's identifier: the first 160 bits of the SHA-256 of the key (RFC 7093, 2, method 1).
func (b *buffer) publicKeyInfo(pub crypto.PublicKey) (keyID [20]byte, err error) {
	var bits []byte
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k == nil {
			return keyID, errors.New("pki: the public key is missing")
		}
		algorithm, ok := curveAlgorithm[k.Curve]
		if !ok {
			return keyID, errors.New("pki: the key's curve is not allowed; use P-256, P-384 or P-521")
		}
		if bits, err = k.Bytes(); err != nil {
			return keyID, fmt.Errorf("pki: %w", err)
		}
		info := b.open(tagSequence)
		b.add(algorithm)
		b.value(tagBitString, []byte{0}, bits)
		b.close(info)
	case *rsa.PublicKey:
		if k == nil || k.N == nil {
			return keyID, errors.New("pki: the public key is missing")
		}
		if n := k.N.BitLen(); n < 2048 || n > 4096 || k.N.Sign() < 0 {
			return keyID, fmt.Errorf("pki: an RSA key of %d bits is not allowed; use 2048 to 4096 bits", n)
		}
		// TPM 2.0 Library, Part 2, 12.2.3.5: an exponent is an odd prime of at most 32 bits.
		// crypto/x509 does not read certificates with an exponent of more than 31 bits.
		if k.N.Bit(0) == 0 || k.E < 3 || k.E > 1<<31-1 || k.E&1 == 0 {
			return keyID, errors.New("pki: the RSA key's modulus or exponent is not valid")
		}
		bits = x509.MarshalPKCS1PublicKey(k)
		spki, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			return keyID, fmt.Errorf("pki: %w", err)
		}
		b.add(spki)
	default:
		return keyID, fmt.Errorf("pki: a key of type %T is not allowed", pub)
	}
	sum := sha256.Sum256(bits)
	return [20]byte(sum[:]), nil
}

// curveAlgorithm maps a curve to the AlgorithmIdentifier of its keys (RFC 5480, 2.1.1).
var curveAlgorithm = map[elliptic.Curve][]byte{
	elliptic.P256(): ecAlgorithm(asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}),
	elliptic.P384(): ecAlgorithm(asn1.ObjectIdentifier{1, 3, 132, 0, 34}),
	elliptic.P521(): ecAlgorithm(asn1.ObjectIdentifier{1, 3, 132, 0, 35}),
}

func ecAlgorithm(curve asn1.ObjectIdentifier) []byte {
	return der(tagSequence, oid(asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}), oid(curve))
}
