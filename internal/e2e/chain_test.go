package e2e_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/device/agent"
	"gangway/hub/evidence"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/internal/swtpm"
)

// authority is a CA that a test made. It stands for a CA of a TPM maker.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string, above *authority) *authority {
	t.Helper()
	return newAuthorityWith(t, name, above, nil)
}

// newAuthorityWith does the same as newAuthority, but `change` can alter the certificate before it
// is signed.
func newAuthorityWith(t *testing.T, name string, above *authority, change func(*x509.Certificate)) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{Organization: []string{"Gangway test"}, CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if change != nil {
		change(template)
	}
	parent, signer := template, key
	if above != nil {
		parent, signer = above.cert, above.key
	}
	cert, err := fleet.Issue(template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

// tpmCertifiedBy starts a software TPM whose EK (H-2) has a certificate that the authority issued.
// It returns the TPM and the certificate. If `change` is not nil, it alters the certificate before
// the authority signs it.
func tpmCertifiedBy(t *testing.T, by *authority, change func(*x509.Certificate)) (*swtpm.TPM, *x509.Certificate) {
	t.Helper()
	tpm := newTPM(t, swtpm.None)
	ek := ekKey(t, tpm, "H-2")
	template, err := fleet.EKTemplate(ek)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(template)
	}
	leaf, err := fleet.Issue(template, by.cert, ek, by.key)
	if err != nil {
		t.Fatal(err)
	}
	if err := tpm.WriteNV(0x01C00014, slices.Concat(leaf.Raw, make([]byte, 200))); err != nil {
		t.Fatal(err)
	}
	return tpm, leaf
}

// tpmWithChain starts a software TPM with three CAs between its EK certificate and a root. It
// returns the TPM, the root, and the three CAs in order, with the issuer of the EK certificate
// first.
func tpmWithChain(t *testing.T) (tpm *swtpm.TPM, root *x509.Certificate, chain [][]byte) {
	t.Helper()
	top := newAuthority(t, "root", nil)
	one := newAuthority(t, "intermediate", top)
	two := newAuthority(t, "platform", one)
	three := newAuthority(t, "issuing", two)
	tpm, _ = tpmCertifiedBy(t, three, nil)
	return tpm, top.cert, [][]byte{three.cert.Raw, two.cert.Raw, one.cert.Raw}
}

// A TPM whose NV contains its maker's chain onboards at a hub that has only the root. This works
// with every layout in which makers store a chain.
func TestChainInTheChipInEveryLayout(t *testing.T) {
	t.Parallel()
	tpm, root, c := tpmWithChain(t)
	h := hubtest.New(t, []*x509.Certificate{root}, nil)
	stream := slices.Concat(c...)
	zeros, ones := make([]byte, 64), bytes.Repeat([]byte{0xFF}, 64)
	stranger := newAuthority(t, "stranger", nil).cert.Raw
	first, last := uint32(0x01C00100), uint32(0x01C001FF)
	layouts := []struct {
		name string
		nv   map[uint32][]byte
	}{
		{"concatenated in one index", map[uint32][]byte{first: stream}},
		{"concatenated and padded with zeros", map[uint32][]byte{first: slices.Concat(stream, zeros)}},
		{"padded with ones, at the last index", map[uint32][]byte{last: slices.Concat(stream, ones)}},
		{"one each, root's side first", map[uint32][]byte{first: c[2], first + 1: c[1], first + 2: c[0]}},
		{"one each, padded, with gaps between", map[uint32][]byte{first: slices.Concat(c[0], ones), first + 7: slices.Concat(c[1], zeros), last: slices.Concat(c[2], ones)}},
		{"split in the middle of certificates", map[uint32][]byte{
			first: stream[:len(c[0])+100], first + 1: stream[len(c[0])+100 : len(c[0])+len(c[1])+3], first + 2: slices.Concat(stream[len(c[0])+len(c[1])+3:], zeros)}},
		{"with something else between", map[uint32][]byte{first: c[0], first + 1: []byte("not a certificate"), first + 2: slices.Concat(c[1], c[2])}},
		{"with the root and a stranger", map[uint32][]byte{first: slices.Concat(stranger, root.Raw), first + 1: stream}},
		{"among more than a request may hold", map[uint32][]byte{
			first: unrelatedCAs(t, 4), first + 1: unrelatedCAs(t, 4), first + 2: stream}},
	}
	for _, l := range layouts {
		t.Run(l.name, func(t *testing.T) {
			for index, data := range l.nv {
				if err := tpm.WriteNV(index, data); err != nil {
					t.Fatal(err)
				}
			}
			defer func() {
				for index := range l.nv {
					if err := tpm.DeleteNV(index); err != nil {
						t.Error(err)
					}
				}
			}()
			s, err := onboard(t, tpm, h.Token(t, h.Owner, nil), t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			if s.Phase != agent.PhaseActive {
				t.Errorf("the device is %s", s.Phase)
			}
		})
	}
	// Without the chain in NV, the hub cannot verify the EK certificate: the root did not issue the
	// EK certificate directly.
	h.Policy(t, h.Owner.ID, "version: 1\nunknown_maker: refuse\n")
	_, err := onboard(t, tpm, h.Token(t, h.Owner, nil), t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "does not chain to a TPM maker") {
		t.Errorf("without the chain: %v", err)
	}
	var refusal *evidence.Refusal
	if errors.As(err, &refusal) && refusal.Code != "ek-chain-untrusted" {
		t.Errorf("refused with %s", refusal.Code)
	}
}

func unrelatedCAs(t *testing.T, n int) (stream []byte) {
	for range n {
		stream = append(stream, newAuthority(t, "stranger", nil).cert.Raw...)
	}
	return stream
}

// An attacker cannot add a trusted root: the hub does not trust a self-signed certificate from the
// TPM's NV.
func TestRootInTheChipIsNotTrusted(t *testing.T) {
	t.Parallel()
	tpm, root, c := tpmWithChain(t)
	h := hubtest.New(t, []*x509.Certificate{newAuthority(t, "root", nil).cert}, nil)
	if err := tpm.WriteNV(0x01C00100, slices.Concat(slices.Concat(c...), root.Raw)); err != nil {
		t.Fatal(err)
	}
	h.Policy(t, h.Owner.ID, "version: 1\nunknown_maker: refuse\n")
	if _, err := onboard(t, tpm, h.Token(t, h.Owner, nil), t.TempDir()); err == nil || !strings.Contains(err.Error(), "does not chain to a TPM maker") {
		t.Errorf("onboarding with the maker's root in NV: %v", err)
	}
}
