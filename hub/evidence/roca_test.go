package evidence

import (
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"slices"
	"testing"
	"time"

	"gangway/internal/fleet"
	"gangway/tcg"
	"gangway/wire"
)

// faultyPrime makes a prime as Infineon's library did: k*M + (65537^a mod M),
// where M is the product of the first n primes.
func faultyPrime(t *testing.T, n, bits int) *big.Int {
	t.Helper()
	m := big.NewInt(1)
	for p := int64(2); n > 0; p++ {
		if big.NewInt(p).ProbablyPrime(0) {
			m.Mul(m, big.NewInt(p))
			n--
		}
	}
	kMax := new(big.Int).Div(new(big.Int).Lsh(big.NewInt(1), uint(bits)), m)
	for range 100_000 {
		a, err := rand.Int(rand.Reader, m)
		if err != nil {
			t.Fatal(err)
		}
		k, err := rand.Int(rand.Reader, kMax)
		if err != nil {
			t.Fatal(err)
		}
		p := new(big.Int).Exp(big.NewInt(65537), a, m)
		p.Add(p, k.Mul(k, m))
		// Because the two highest bits are set, the product of two such primes has exactly twice as
		// many bits.
		if p.Bit(bits-1) == 1 && p.Bit(bits-2) == 1 && p.BitLen() == bits && p.ProbablyPrime(8) {
			return p
		}
	}
	t.Fatal("no prime was found")
	return nil
}

func TestROCAIsToldFromTheModulus(t *testing.T) {
	t.Parallel()
	// M is a product of primes. Keys of up to 960 bits use 39 primes, keys of up to 1952 bits use
	// 71 primes, and keys of up to 3936 bits use 126 primes.
	for _, c := range []struct{ primes, bits int }{{39, 256}, {71, 512}, {126, 1024}} {
		n := new(big.Int).Mul(faultyPrime(t, c.primes, c.bits), faultyPrime(t, c.primes, c.bits))
		if !isROCA(n) {
			t.Errorf("a faulty key of %d bits is not detected", n.BitLen())
		}
		if isROCA(new(big.Int).Add(n, big.NewInt(2))) {
			t.Error("the modulus plus 2 is reported as faulty")
		}
	}
	for range 20 {
		k, err := rsa.GenerateKey(rand.Reader, 1024)
		if err != nil {
			t.Fatal(err)
		}
		if isROCA(k.N) {
			t.Error("a sound key is reported as faulty")
		}
	}
}

// A genuine certificate is refused if anyone can factor its key.
func TestRejectsROCAKeys(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it makes many RSA keys: make test runs this test")
	}
	maker, err := fleet.NewMaker("good", fleet.MakerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	trust, err := NewTrust(maker.Roots(), maker.Intermediates())
	if err != nil {
		t.Fatal(err)
	}
	n := new(big.Int).Mul(faultyPrime(t, 126, 1024), faultyPrime(t, 126, 1024))
	faulty := &rsa.PublicKey{N: n, E: 65537}
	judge := func(change func(*fleet.Device)) *Verdict {
		t.Helper()
		d, err := fleet.New(maker, "L-1")
		if err != nil {
			t.Fatal(err)
		}
		change(d)
		body, err := d.Request(&wire.TokenFile{ID: wire.NewID(), Owner: wire.AccountPRN + wire.NewID(), HubName: "ab", Token: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}, fleet.RequestChange{})
		if err != nil {
			t.Fatal(err)
		}
		r, err := Parse(body)
		if err != nil {
			t.Fatal(err)
		}
		v := new(Verdict)
		Verify(v, r, &Input{Trust: trust, Policy: Policy{Software: []string{"FAKE"}}, Now: time.Now()})
		return v
	}
	withModulus := func(template tcg.Template) *fleet.Key {
		k, err := fleet.NewKey(template, func(p *tcg.Public) { p.Modulus = n.Bytes() })
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if v := judge(func(*fleet.Device) {}); !v.Accepted() {
		t.Fatal(v.Refusal)
	}
	for code, change := range map[string]func(*fleet.Device){
		"ek-roca": func(d *fleet.Device) {
			d.EK = withModulus(tcg.EKTemplates[slices.IndexFunc(tcg.EKTemplates, func(k tcg.Template) bool { return k.Name == "L-1" })])
			template, err := fleet.EKTemplate(faulty)
			if err != nil {
				t.Fatal(err)
			}
			cert, err := maker.Sign(template, faulty)
			if err != nil {
				t.Fatal(err)
			}
			d.EKCert = cert.Raw
		},
		"iak-roca":    func(d *fleet.Device) { d.IAK = withModulus(tcg.IAKTemplates[0]) },
		"idevid-roca": func(d *fleet.Device) { d.IDevID = withModulus(tcg.IDevIDTemplates[0]) },
	} {
		if v := judge(change); v.Accepted() || v.Refusal == nil || v.Refusal.Code != code {
			t.Errorf("%s: %+v", code, v.Refusal)
		}
	}
}

func BenchmarkROCA(b *testing.B) {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		isROCA(k.N)
	}
}
