package boot_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"math/big"
	"slices"
	"strings"
	"testing"

	"gangway/hub/boot"
	"gangway/internal/eventlog"
	"gangway/wire/manifest"

	"github.com/google/go-eventlog/register"
	upstream "github.com/google/go-eventlog/tcg"
	"github.com/google/go-eventlog/testdata"
)

// certificate makes a certificate that anyone could make, with any subject.
func certificate(t *testing.T, subject string) []byte {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: subject}}
	return must(x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key))(t)
}

var (
	typeX509   = []byte{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}
	typeSHA256 = []byte{0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28}
)

// signatureList is an EFI_SIGNATURE_LIST (UEFI 32.4.1) whose entries have the same size.
func signatureList(kind []byte, entries ...[]byte) []byte {
	size := 16 + len(entries[0])
	out := binary.LittleEndian.AppendUint32(slices.Clone(kind), uint32(28+size*len(entries)))
	out = binary.LittleEndian.AppendUint32(out, 0)
	out = binary.LittleEndian.AppendUint32(out, uint32(size))
	for _, e := range entries {
		out = append(append(out, make([]byte, 16)...), e...)
	}
	return out
}

// security is the UEFI_VARIABLE_DATA of db or dbx.
func security(name string, value []byte) []byte {
	v := eventlog.Variable(name, value)
	copy(v, []byte{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f})
	return v
}

// withKeys is a boot with these Secure Boot variables.
func withKeys(db, dbx []byte) eventlog.Log {
	l := eventlog.Boot(true, "linux 1", "quiet")
	l[2].Data = security("db", db)
	return slices.Insert(l, 3, eventlog.Event{PCR: 7, Type: eventlog.EFIVariableDriver, Data: security("dbx", dbx)})
}

func TestCertificateThatWasAddedIsNamed(t *testing.T) {
	t.Parallel()
	own, forged := certificate(t, "Our db"), certificate(t, "Windows UEFI CA 2023")
	revoked := sha256.Sum256([]byte("bad loader"))
	ref := boot.NewReference(verify(t, withKeys(signatureList(typeX509, own), nil)), "", may3)
	for _, c := range []struct {
		name    string
		db, dbx []byte
		says    []string
		cause   string
	}{
		{"another's certificate with Microsoft's name", append(signatureList(typeX509, own), signatureList(typeX509, forged)...), nil, []string{`db gained the certificate "Windows UEFI CA 2023" (SHA-256 `, "which this hub does not know"}, ""},
		{"a certificate was removed", signatureList(typeSHA256, revoked[:]), nil, []string{`db lost the certificate "Our db"`}, ""},
		{"more revocations", signatureList(typeX509, own), signatureList(typeSHA256, revoked[:]), []string{"The number of hashes in dbx changed from 0 to 1."}, boot.CauseRevocations},
	} {
		v := boot.Judge(verify(t, withKeys(c.db, c.dbx)), boot.Rules{Reference: ref})
		keys := v.Parts[1]
		if keys.State != boot.StateChanged || keys.Cause != c.cause || v.Matches() {
			t.Errorf("%s: %+v", c.name, keys)
		}
		for _, s := range c.says {
			if !strings.Contains(keys.Words, s) {
				t.Errorf("%s: %q", c.name, keys.Words)
			}
		}
	}
}

// The log comes from the test data of another project. Its db and KEK have Microsoft's
// certificates, which the hub recognises by their published hashes.
func TestPublishedCertificatesAreRecognised(t *testing.T) {
	t.Parallel()
	raw := testdata.Ubuntu2404AmdSevSnpEventLog
	log := must(upstream.ParseEventLog(raw, upstream.ParseOpts{}))(t)
	pcrs := make([][]byte, boot.PCRs)
	for i := range pcrs {
		pcrs[i] = make([]byte, 32)
	}
	for _, e := range log.Events(register.HashSHA256) {
		if e.Type != upstream.NoAction && e.Index < boot.PCRs {
			pcrs[e.Index] = extendedWith(pcrs[e.Index], [32]byte(e.Digest))
		}
	}
	d, e := quoted(t, pcrs, raw)
	m := must(boot.Verify(d.IAK.Public, e))(t)
	var known []string
	for _, v := range m.Keys {
		for _, c := range v.Certificates {
			if c.Known != "" && c.Known != c.Subject {
				t.Errorf("%q is recognised as %q", c.Subject, c.Known)
			}
			if c.Known != "" {
				known = append(known, v.Name+" "+c.Known)
			}
		}
	}
	for _, want := range []string{"KEK Microsoft Corporation KEK CA 2011", "db Microsoft Windows Production PCA 2011", "db Microsoft Corporation UEFI CA 2011"} {
		if !slices.Contains(known, want) {
			t.Errorf("%q is not among %q", want, known)
		}
	}
}

func TestKeysOfTheOwnersImageAreExpected(t *testing.T) {
	t.Parallel()
	own := signatureList(typeX509, certificate(t, "Our db"))
	one := shipped("one", 1, "linux 1", "quiet")
	one.SecureBoot = &manifest.SecureBoot{Variables: []manifest.Variable{{Name: "db", Events: map[string]string{bank: hexSum(string(security("db", own)))}}}}
	rules := boot.Rules{Manifests: []*manifest.Manifest{one}}
	used := eventlog.Event{PCR: 7, Type: eventlog.EFIVariableDriver, Data: security("db", append(make([]byte, 16), certificate(t, "Our db")...))}
	off := withKeys(own, nil)
	off[1].Data = eventlog.Variable("SecureBoot", []byte{0})
	twice := slices.Insert(withKeys(own, nil), 3, withKeys(own, nil)[2])
	for _, c := range []struct {
		name string
		log  eventlog.Log
		want string
	}{
		{"the image's keys", withKeys(own, nil), boot.StateExpected},
		{"the image's keys, with the key that was used", append(withKeys(own, nil), used), boot.StateExpected},
		{"another db", withKeys(signatureList(typeX509, certificate(t, "Our db")), nil), boot.StateKnown},
		{"a dbx that the image does not have", withKeys(own, signatureList(typeSHA256, make([]byte, 32))), boot.StateKnown},
		{"Secure Boot off", off, boot.StateKnown},
		{"db measured twice", twice, boot.StateKnown},
		{"something else after the separator", append(withKeys(own, nil), eventlog.Event{PCR: 7, Type: eventlog.EFIVariableDriver, Data: []byte("MokList")}), boot.StateKnown},
	} {
		if v := boot.Judge(verify(t, c.log), rules); v.Parts[1].State != c.want {
			t.Errorf("%s: %s", c.name, states(v))
		}
	}
}

func TestBrokenSignatureListsAreReadWithoutHarm(t *testing.T) {
	t.Parallel()
	good := signatureList(typeX509, certificate(t, "Our db"))
	many := signatureList(typeX509, slices.Repeat([][]byte{{1}}, 5000)...)
	var broken [][]byte
	for i := range 28 {
		b := slices.Clone(good)
		b[i] = 0xFF
		broken = append(broken, b, good[:i])
	}
	for _, db := range append(broken, many, slices.Concat(good, []byte{1, 2, 3})) {
		m := verify(t, withKeys(db, nil))
		n := 0
		for _, v := range m.Keys {
			n += len(v.Certificates)
		}
		if n > 64 {
			t.Errorf("%d certificates are kept", n)
		}
	}
}
