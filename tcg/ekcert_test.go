package tcg

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/internal/makercerts"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// pointFor makes a key on the curve of an ECC public area. The second result is its uncompressed
// point.
func pointFor(t *testing.T, p *Public) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	curve, err := p.Curve.curve()
	if err != nil {
		t.Fatal(err)
	}
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b, err := k.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return k, b
}

// A point that is not on its curve has no hash, and is not the key of any certificate.
func TestRejectsPointOffItsCurve(t *testing.T) {
	t.Parallel()
	for _, tmpl := range EKTemplates {
		if tmpl.Public.Type != AlgECC {
			continue
		}
		p := tmpl.Public
		k, b := pointFor(t, &p)
		spki, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		half := (len(b) - 1) / 2
		p.X, p.Y = b[1:1+half], b[1+half:]
		p.Y[half-1] ^= 1
		if p.IsCertified(&EKCertificate{Certificate: &x509.Certificate{RawSubjectPublicKeyInfo: spki}, PublicKey: &k.PublicKey}) {
			t.Errorf("%s: the certificate of another key was taken for its own", tmpl.Name)
		}
		if _, err := p.KeyHash(); err == nil {
			t.Errorf("%s: a point off the curve has a hash", tmpl.Name)
		}
		p.X = append([]byte{0}, p.X...) // longer than the curve allows
		if _, err := p.KeyHash(); err == nil {
			t.Errorf("%s: a coordinate that is too long has a hash", tmpl.Name)
		}
	}
}

// ekCertificate makes an EK certificate for an RSA key.
func ekCertificate(t testing.TB, serial *big.Int) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageKeyEncipherment,
	}
	ek, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &ek.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TrimCertificate removes the wrapper of a TPM 1.2 and the padding of the NV area from a
// certificate.
func TestTrimsWhatChipsPutAroundACertificate(t *testing.T) {
	t.Parallel()
	der := ekCertificate(t, big.NewInt(1))
	wrapped := append([]byte{0x10, 0x01, 0x00, byte((len(der) + 2) >> 8), byte(len(der) + 2), 0x10, 0x02}, der...)
	for name, b := range map[string][]byte{
		"plain":        der,
		"zeros":        append(bytes.Clone(der), make([]byte, 500)...),
		"ones":         append(bytes.Clone(der), bytes.Repeat([]byte{0xFF}, 500)...),
		"TPM 1.2":      wrapped,
		"both of them": append(bytes.Clone(wrapped), 0, 0, 0),
	} {
		got, err := TrimCertificate(b)
		if err != nil || !bytes.Equal(got, der) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{
		"empty":             {},
		"something else":    append(bytes.Clone(der), 1, 2, 3),
		"mixed padding":     append(bytes.Clone(der), 0, 0xFF),
		"other padding":     append(bytes.Clone(der), 0x20, 0x20, 0x20),
		"one byte":          append(bytes.Clone(der), 1),
		"padded wrapping":   append(bytes.Clone(wrapped), 'A', 'A'),
		"another one after": append(bytes.Clone(der), der...),
		"cut":               der[:len(der)-1],
		"wrapping of 0":     {0x10, 0x01, 0x00, 0, 0, 0x10, 0x02},
		"wrapping too big":  {0x10, 0x01, 0x00, 0xFF, 0xFF, 0x10, 0x02, 0x30},
	} {
		if _, err := TrimCertificate(b); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// crypto/x509 refuses negative serial numbers, but EK certificates of real TPMs have them.
func TestReadsNegativeSerialNumber(t *testing.T) {
	t.Parallel()
	der := ekCertificate(t, big.NewInt(0x7A0000000000))
	at, size, ok := serialContent(der)
	if !ok || size != 6 {
		t.Fatalf("serial not found: %d bytes", size)
	}
	der[at] |= 0x80
	if _, err := x509.ParseCertificate(der); err == nil {
		t.Skip("this Go version accepts negative serial numbers")
	}
	e, err := ParseEKCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(e.Quirks, "negative serial number") {
		t.Errorf("the quirk is not named: %q", e.Quirks)
	}
	if !bytes.Equal(e.Certificate.Raw, der) || !bytes.Contains(der, e.Certificate.RawTBSCertificate) {
		t.Error("the signed bytes are not those of the certificate")
	}
}

// In the certificates of some TPMs, the algorithm of the RSA key is id-RSAES-OAEP instead of
// rsaEncryption. The two OIDs differ only in the last byte.
func TestReadsOAEPKey(t *testing.T) {
	t.Parallel()
	der := ekCertificate(t, big.NewInt(1))
	rsaOID := []byte{0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01}
	at := bytes.LastIndex(der, rsaOID)
	if at < 0 {
		t.Fatal("no RSA key")
	}
	want, err := ParseEKCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	der[at+len(rsaOID)-1] = 7
	got, err := ParseEKCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if !want.PublicKey.(*rsa.PublicKey).Equal(got.PublicKey) {
		t.Error("another key was read")
	}
	if !slices.Contains(got.Quirks, "key of type id-RSAES-OAEP") {
		t.Errorf("the quirk is not named: %q", got.Quirks)
	}
}

func TestManufacturerNames(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"id:49465800": "IFX", "id:494E5443": "INTC", "id:53544D20": "STM", "id:414D4400": "AMD",
		"id:00001014": "id:00001014", "IBM": "IBM", "id:xyz": "id:xyz", "": "",
	} {
		if got := manufacturer(in); got != want {
			t.Errorf("manufacturer(%q) = %q, want %q", in, got, want)
		}
	}
}

// The parser accepts every CA certificate in the test collection of real makers' certificates.
func TestReadsMakersCertificates(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(makercerts.Folder(t), "*.pem"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		for _, der := range makercerts.DER(t, filepath.Base(f)) {
			n++
			if _, _, err := parseLenient(der); err != nil {
				t.Errorf("%s, certificate %d: %v", filepath.Base(f), n, err)
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d certificates were tried", n)
	}
}

func FuzzParseEKCertificate(f *testing.F) {
	f.Add(ekCertificate(f, big.NewInt(1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEKCertificate(b)
		if err != nil {
			return
		}
		if e.PublicKey == nil {
			t.Fatal("no key and no error")
		}
		if strings.ContainsAny(e.Manufacturer+e.Model+e.Version, "\x00\n\x1b") {
			t.Fatal("there are control characters in displayed text")
		}
	})
}

// Each OID that cryptobyte reads is an OID for isOID, and nothing else is.
func TestOIDsAreThoseThatCryptobyteReads(t *testing.T) {
	t.Parallel()
	check := func(content []byte) {
		t.Helper()
		var b cryptobyte.Builder
		b.AddASN1(casn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes(content) })
		s := cryptobyte.String(b.BytesOrPanic())
		var id asn1.ObjectIdentifier
		if want := s.ReadASN1ObjectIdentifier(&id); isOID(content) != want {
			t.Fatalf("isOID(%x) is %v", content, !want)
		}
	}
	check(nil)
	for b := range 1 << 16 {
		check([]byte{byte(b)})
		check([]byte{byte(b >> 8), byte(b)})
		// The bytes that decide about long numbers, and about the beginning of a number.
		few := []byte{0x00, 0x01, 0x7F, 0x80, 0x81, 0x87, 0x88, 0xFF}
		check([]byte{few[b&7], few[b>>3&7], few[b>>6&7], few[b>>9&7], few[b>>12&7], byte(b >> 15)})
		check([]byte{0x55, few[b&7], few[b>>3&7], few[b>>6&7], few[b>>9&7], few[b>>12&7]})
	}
	for text, id := range map[string]asn1.ObjectIdentifier{
		derManufacturer: OIDManufacturer, derModel: OIDModel, derVersion: OIDVersion,
		derKeyUsage: {2, 5, 29, 15}, derBasicConstraints: {2, 5, 29, 19},
	} {
		if der, err := asn1.Marshal(id); err != nil || string(der[2:]) != text {
			t.Errorf("%v is %x, %v", id, der, err)
		}
	}
}

// Public.Is compares the encoded numbers of two keys. Its result must agree with a comparison of
// the decoded keys.
func TestIsAgreesWithTheKeys(t *testing.T) {
	t.Parallel()
	keys := []crypto.PublicKey{}
	publics := []*Public{}
	for _, tmpl := range EKTemplates {
		for range 2 {
			p := tmpl.Public
			switch p.Type {
			case AlgRSA:
				if p.KeyBits != 2048 {
					continue
				}
				k, err := rsa.GenerateKey(rand.Reader, 2048)
				if err != nil {
					t.Fatal(err)
				}
				p.Modulus = k.N.Bytes()
				keys = append(keys, &k.PublicKey)
			default:
				k, b := pointFor(t, &p)
				half := (len(b) - 1) / 2
				p.X, p.Y = bytes.TrimLeft(b[1:1+half], "\x00"), b[1+half:]
				keys = append(keys, &k.PublicKey)
			}
			publics = append(publics, &p)
		}
	}
	for i, p := range publics {
		for j, k := range keys {
			spki, err := x509.MarshalPKIXPublicKey(k)
			if err != nil {
				t.Fatal(err)
			}
			certificate := &EKCertificate{Certificate: &x509.Certificate{RawSubjectPublicKeyInfo: spki}, PublicKey: k}
			for what, is := range map[string]func(*Public) bool{
				"Is":          func(p *Public) bool { return p.Is(k) },
				"IsCertified": func(p *Public) bool { return p.IsCertified(certificate) },
			} {
				fresh := *p
				for range 2 { // the second call finds a cached key
					if is(&fresh) != (i == j) {
						t.Errorf("%s %d: %s(key %d) = %v", p.Algorithm(), i, what, j, i != j)
					}
					if got, err := fresh.Key(); err != nil || i == j != got.(interface{ Equal(crypto.PublicKey) bool }).Equal(k) {
						t.Errorf("%d: Key is another: %v", i, err)
					}
				}
				want, err := KeyHash(keys[i])
				if got, err2 := fresh.KeyHash(); err != nil || err2 != nil || got != want {
					t.Errorf("%d: KeyHash is another: %v, %v", i, err, err2)
				}
			}
		}
	}
}
