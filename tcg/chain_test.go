package tcg

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"testing"
	"time"
)

// chainOf makes a chain of CA certificates with these names. The first CA would issue the leaf
// certificate. The last CA's certificate is self-signed.
func chainOf(t testing.TB, names ...string) [][]byte {
	t.Helper()
	var out [][]byte
	var above *x509.Certificate
	var signer *ecdsa.PrivateKey
	for i, name := range slices.Backward(names) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
			NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
		}
		if above == nil {
			above, signer = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, above, &key.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		if above, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		signer = key
		out = append([][]byte{der}, out...)
	}
	return out
}

func TestSplitsChainsInEveryLayout(t *testing.T) {
	t.Parallel()
	c := chainOf(t, "issuing", "intermediate", "root")
	one, two, three := c[0], c[1], c[2]
	stream := slices.Concat(one, two, three)
	zeros, ones := make([]byte, 100), bytes.Repeat([]byte{0xFF}, 100)
	wrongLength := append(bytes.Clone(one), two...)
	wrongLength[3] += 40 // the length now includes a part of the next certificate
	for name, layout := range map[string]struct {
		parts [][]byte
		want  [][]byte
		lost  int
	}{
		"nothing":                      {},
		"only padding":                 {[][]byte{{0, 0xFF, 0}, zeros}, nil, 0},
		"one index":                    {[][]byte{stream}, c, 0},
		"one index, padded":            {[][]byte{slices.Concat(stream, ones)}, c, 0},
		"one each":                     {c, c, 0},
		"one each, padded":             {[][]byte{slices.Concat(one, zeros), slices.Concat(two, ones), slices.Concat(three, zeros)}, c, 0},
		"split in the second":          {[][]byte{stream[:len(one)+50], stream[len(one)+50:]}, c, 0},
		"split everywhere":             {slices.Collect(slices.Chunk(stream, 17)), c, 0},
		"split, padded at the end":     {[][]byte{stream[:500], slices.Concat(stream[500:], zeros)}, c, 0},
		"twice the same":               {[][]byte{one, one, two}, c[:2], 0},
		"an index of something else":   {[][]byte{one, []byte("hello"), two}, c[:2], 5},
		"something else at its end":    {[][]byte{slices.Concat(one, []byte("x")), two}, c[:2], 1},
		"a length that lies":           {[][]byte{wrongLength[:len(one)], two}, c[1:2], len(one)},
		"cut short":                    {[][]byte{one, two[:len(two)-1]}, c[:1], len(two) - 1},
		"one that could not be read":   {[][]byte{one, nil, two}, c[:2], 0},
		"split over an unreadable one": {[][]byte{one[:100], nil, one[100:], two}, c[1:2], len(one)},
		"indefinite length":            {[][]byte{{0x30, 0x80, 0, 0}}, nil, 4},
		"longer than any":              {[][]byte{append([]byte{0x30, 0x82, 0x40, 0}, make([]byte, 0x4000)...)}, nil, 0x4004},
		"DER, but no certificate":      {[][]byte{{0x30, 3, 1, 2, 3}, one}, c[:1], 5},
	} {
		got, lost := SplitCertificates(layout.parts...)
		if !slices.EqualFunc(got, layout.want, bytes.Equal) || lost != layout.lost {
			t.Errorf("%s: %d certificates and %d bytes lost, want %d and %d", name, len(got), lost, len(layout.want), layout.lost)
		}
	}
}

func TestChainOfManyCertificatesIsBounded(t *testing.T) {
	t.Parallel()
	c := chainOf(t, "issuing")[0]
	var parts [][]byte
	for i := range 300 {
		other := bytes.Clone(c)
		other[len(other)-1], other[len(other)-2] = byte(i), byte(i>>8)
		parts = append(parts, other)
	}
	certs, _ := SplitCertificates(parts...)
	if len(certs) != maxSplit {
		t.Errorf("%d certificates", len(certs))
	}
	if n := len(PickChain(nil, certs)); n != MaxIntermediates {
		t.Errorf("%d were picked", n)
	}
}

// A TPM may store more certificates than fit into a request. The device must then send the
// certificates of its own chain, so that it can still onboard.
func TestPicksTheCertificatesAboveTheLeaf(t *testing.T) {
	t.Parallel()
	own := chainOf(t, "leaf", "issuing", "intermediate", "root")
	var all [][]byte
	for range 10 {
		all = append(all, chainOf(t, "stranger")...)
	}
	all = append(all, own[3], own[2], own[1], []byte("no certificate"))
	got := PickChain(own[0], all)
	if len(got) != MaxIntermediates || !slices.EqualFunc(got[:3], own[1:], bytes.Equal) {
		t.Errorf("%d were picked, but the chain does not come first", len(got))
	}
}

func FuzzSplitCertificates(f *testing.F) {
	c := chainOf(f, "issuing", "root")
	f.Add(slices.Concat(c[0], c[1], make([]byte, 8)), uint16(100), uint16(700))
	f.Add(slices.Concat(c[0], []byte{0x30, 0x82}, c[1]), uint16(0), uint16(9))
	f.Fuzz(func(t *testing.T, stream []byte, a, b uint16) {
		x, y := min(int(a), len(stream)), min(int(b), len(stream))
		parts := [][]byte{stream[:min(x, y)], stream[min(x, y):max(x, y)], stream[max(x, y):]}
		certs, lost := SplitCertificates(parts...)
		total := lost
		for i, c := range certs {
			total += len(c)
			if !bytes.Contains(stream, c) || certificateSize(c) != len(c) {
				t.Fatalf("certificate %d is not in the stream", i)
			}
		}
		if total > len(stream) || len(certs) > maxSplit {
			t.Fatalf("%d certificates of %d bytes, lost bytes included, from %d", len(certs), total, len(stream))
		}
		if len(PickChain(stream, certs)) > MaxIntermediates {
			t.Fatal("too many were picked")
		}
	})
}
