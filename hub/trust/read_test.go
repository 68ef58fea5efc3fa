package trust_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gangway/hub/trust"
	"gangway/internal/makercerts"
)

func read(t *testing.T, name string, b []byte) ([]trust.Certificate, []*trust.Problem) {
	t.Helper()
	certs, problems, err := trust.Read(t.Context(), name, b)
	if err != nil {
		t.Fatal(err)
	}
	return certs, problems
}

// The function `same` fails the test unless `got` is exactly the list of certificates `want`, in
// this order.
func same(t *testing.T, got []trust.Certificate, want ...*ca) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d certificates were read, of %d", len(got), len(want))
	}
	for i, c := range got {
		if !c.Cert.Equal(want[i].cert) {
			t.Errorf("certificate %d is %s", i, c.Cert.Subject)
		}
	}
}

func TestReadsEachForm(t *testing.T) {
	t.Parallel()
	root := newCA(t, "Root", nil, nil)
	link := newCA(t, "Link", root, nil)
	bundle := "Root of the maker\n# and a link below it\r\n" + asPEM(root.cert.Raw) + "\n\nmore: text\n" + strings.ReplaceAll(asPEM(link.cert.Raw), "\n", "\r\n") + "the end"
	for name, b := range map[string][]byte{
		"one.der":     root.cert.Raw,
		"several.der": slices.Concat(root.cert.Raw, link.cert.Raw),
		"bundle.pem":  []byte(bundle),
		"bundle.p7b":  pkcs7(t, bundle, "DER"),
		"pem.p7b":     pkcs7(t, bundle, "PEM"),
	} {
		t.Run(name, func(t *testing.T) {
			got, problems := read(t, name, b)
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			if name == "one.der" {
				same(t, got, root)
			} else {
				same(t, got, root, link)
				if got[1].Root {
					t.Error("the link is a root")
				}
			}
			if !got[0].Root || got[0].Maker != "Test Chips" || got[0].Source != name {
				t.Errorf("%+v", got[0])
			}
		})
	}
}

// pkcs7 packs a PEM bundle with OpenSSL.
func pkcs7(t *testing.T, bundle, form string) []byte {
	t.Helper()
	in := filepath.Join(t.TempDir(), "in.pem")
	if err := os.WriteFile(in, []byte(bundle), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("openssl", "crl2pkcs7", "-nocrl", "-certfile", in, "-outform", form).Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A root may be signed with SHA-1, because the hub trusts this very certificate, not its signature.
// A certificate that another CA has signed is a link, even if the collection keeps it in a folder
// of roots.
func TestFolderNamesMakeNoRoot(t *testing.T) {
	t.Parallel()
	for _, c := range trust.BuiltIn() {
		sha1 := c.Cert.SignatureAlgorithm == x509.SHA1WithRSA
		switch c.Name() {
		case "VeriSign Trusted Platform Module Root CA":
			if !sha1 || !c.Root {
				t.Errorf("%s: SHA-1 %v, root %v", c.Name(), sha1, c.Root)
			}
		case "IFX TPM EK Root CA", "STM TPM EK Root CA", "STM TPM ECC Root CA 01":
			if c.Root {
				t.Errorf("%s was issued by %s and is called a root", c.Name(), c.Cert.Issuer)
			}
		}
	}
}

// A certificate whose issuer has the same name as its subject is a root only if its own key has
// signed it.
func TestRootMustHaveSignedItself(t *testing.T) {
	t.Parallel()
	root := newCA(t, "Root", nil, nil)
	pretender := newCA(t, "Root", root, nil)
	if !bytes.Equal(pretender.cert.RawSubject, pretender.cert.RawIssuer) {
		t.Fatal("the test's certificate is not self-issued")
	}
	got, _ := read(t, "x.der", pretender.cert.Raw)
	if got[0].Root {
		t.Error("a certificate signed by another key is a root")
	}
}

func TestNamesEachCertificateThatIsWrong(t *testing.T) {
	t.Parallel()
	root := newCA(t, "Root", nil, nil)
	leaf := newCA(t, "Device", root, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature })
	noSigner := newCA(t, "No signer", root, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })
	good := asPEM(root.cert.Raw)
	for _, c := range []struct{ name, text, says string }{
		{"leaf", good + asPEM(leaf.cert.Raw), `certificate 2: "CN=Device,O=Test Chips" cannot issue`},
		{"usage", asPEM(noSigner.cert.Raw) + good, `certificate 1: "CN=No signer,O=Test Chips" cannot issue`},
		{"short key", good + asPEM(shortKey(t)), "fewer than 2048 bits"},
		{"damaged PEM", good + strings.Replace(good, "A", "!", 3), "certificate 2: the PEM block is damaged"},
		{"cut PEM", good[:len(good)/2] + "\n" + good, "certificate 1: the PEM block is damaged"},
		{"no DER", good + asPEM([]byte("junk")), "certificate 2: "},
		{"too large", good + asPEM(bytes.Repeat([]byte{0x30}, 100_000)), "100000 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, problems := read(t, "makers.pem", []byte(c.text))
			same(t, got, root)
			if len(problems) != 1 || !strings.Contains(problems[0].Error(), c.says) || !strings.HasPrefix(problems[0].Error(), "makers.pem, certificate ") {
				t.Errorf("problems: %v", problems)
			}
		})
	}
}

func TestRefusesFilesOfOtherThings(t *testing.T) {
	t.Parallel()
	root := newCA(t, "Root", nil, nil)
	for _, c := range []struct{ name, text, says string }{
		{"empty", "", "contains no certificate"},
		{"prose", "no certificate here", "neither a PEM nor a DER"},
		{"key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}})), `the PEM block "PRIVATE KEY"`},
		{"certificate and key", asPEM(root.cert.Raw) + string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte{1}})), `the PEM block "EC PRIVATE KEY"`},
		{"data after it", string(root.cert.Raw) + "x", "neither"},
		{"large", strings.Repeat("x", trust.MaxFile+1), "at most"},
		{"other PKCS #7", string(der(t, struct{ Kind asn1.ObjectIdentifier }{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}})), "no readable certificates"},
		{"cabinet", "MSCF", "not a cabinet"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := trust.Read(t.Context(), "file", []byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "file") {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

func der(t *testing.T, v any) []byte {
	t.Helper()
	b, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Some makers use negative serial numbers, which crypto/x509 refuses by default. Read must accept
// such a certificate, because its signature is valid.
func TestReadsNegativeSerialNumber(t *testing.T) {
	t.Parallel()
	root := newCA(t, "Root", nil, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(0x7A) })
	b := bytes.Clone(root.cert.RawTBSCertificate)
	at := bytes.Index(b, []byte{0x02, 0x01, 0x7A})
	b[at+2] = 0x9A
	signed := resign(t, root, b)
	if _, err := x509.ParseCertificate(signed); err == nil {
		t.Fatal("crypto/x509 reads it")
	}
	got, problems := read(t, "odd.der", signed)
	if len(problems) > 0 || !got[0].Root || len(got[0].Quirks) != 1 {
		t.Errorf("%v %+v", problems, got)
	}
}

// All certificates of the reference collection must be importable.
func TestReadsMakersCertificatesOfTheCollection(t *testing.T) {
	t.Parallel()
	folder := makercerts.Folder(t)
	for name, want := range map[string]struct{ roots, links int }{
		// The collection calls these three certificates roots, but another CA issued them.
		makercerts.Roots:         {23, 3},
		makercerts.Intermediates: {0, 143},
	} {
		b, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		certs, problems := read(t, name, b)
		if len(problems) > 0 {
			t.Error(problems)
		}
		roots := 0
		for _, c := range certs {
			if c.Root {
				roots++
			}
		}
		if roots != want.roots || len(certs)-roots != want.links {
			t.Errorf("%s: %d roots and %d links, want %+v", name, roots, len(certs)-roots, want)
		}
	}
}

// Each root that Read returns must be a built-in root: the seeds contain no other roots, and the
// fuzzer cannot forge a self-signature.
func FuzzRead(f *testing.F) {
	known := map[[32]byte]bool{}
	for _, c := range trust.BuiltIn() {
		known[c.Fingerprint] = true
		f.Add(c.Cert.Raw)
	}
	one, two := trust.BuiltIn()[0].Cert.Raw, trust.BuiltIn()[1].Cert.Raw
	f.Add(slices.Concat(one, two))
	f.Add([]byte(asPEM(one) + "between" + asPEM(two)))
	f.Add(asPKCS7(one))
	f.Add([]byte("MSCF"))
	f.Fuzz(func(t *testing.T, b []byte) {
		certs, problems, err := trust.Read(t.Context(), "fuzz", b)
		if err != nil && len(certs)+len(problems) > 0 || err == nil && len(certs)+len(problems) == 0 {
			t.Fatalf("%d certificates, %d problems, error %v", len(certs), len(problems), err)
		}
		for _, c := range certs {
			if c.Root && !known[c.Fingerprint] {
				t.Fatalf("a forged root: %.40x", c.Cert.Raw)
			}
		}
	})
}

// asPKCS7 puts one certificate into a PKCS #7 message. It does not check the certificate.
func asPKCS7(cert []byte) []byte {
	tlv := func(tag byte, parts ...[]byte) []byte {
		b := slices.Concat(parts...)
		return append([]byte{tag, 0x82, byte(len(b) >> 8), byte(len(b))}, b...)
	}
	data := []byte{0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x07, 0x01}
	signed := slices.Clone(data)
	signed[10] = 0x02
	return tlv(0x30, signed, tlv(0xA0, tlv(0x30, []byte{0x02, 1, 1}, []byte{0x31, 0}, tlv(0x30, data), tlv(0xA0, cert), []byte{0x31, 0})))
}

// resign signs the TBSCertificate `tbs` with a CA's key and returns the certificate in DER.
func resign(t *testing.T, by *ca, tbs []byte) []byte {
	t.Helper()
	digest := sha256.Sum256(tbs)
	signature, err := by.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return der(t, struct {
		TBS       asn1.RawValue
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: tbs}, asn1.RawValue{FullBytes: []byte{0x30, 0x0A, 0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0x02}}, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
}
