package identity

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"gangway/internal/swtpm"

	"github.com/google/go-tpm/tpm2"
)

// onboardOnce runs each operation that loads keys or sessions once. It stops at the first error.
func onboardOnce(ctx context.Context, tpm *TPM, blob, enc []byte) error {
	id, err := Load(ctx, tpm, Options{})
	if err != nil {
		return err
	}
	defer id.Close()
	if _, err := id.Request(info()); err != nil {
		return err
	}
	if _, err := id.ActivateCredential(blob, enc); err != nil {
		return err
	}
	digest := make([]byte, 32)
	_, err = id.Signer().Sign(nil, digest, hashOpts)
	return err
}

// TestNothingLeaksWhateverCommandFails: the test makes each command fail in five ways: before it is
// sent; after the TPM executed it; with a refusal; with a response that ends early; and with random
// bytes as the response. After Close, the TPM must hold no object and no session of this package.
// With -short, the test tries each way only at every third command. The ways begin at different
// commands, so each command still fails in at least one way.
func TestNothingLeaksWhateverCommandFails(t *testing.T) {
	step := 1
	if testing.Short() {
		step = 3
	}
	for i, c := range []struct {
		name   string
		before func(cmd []byte) ([]byte, error)
		after  func(cmd, rsp []byte) ([]byte, error)
	}{
		{"not sent", func([]byte) ([]byte, error) { return nil, errInjected }, nil},
		{"response lost", nil, func(_, _ []byte) ([]byte, error) { return nil, errInjected }},
		{"refused", func([]byte) ([]byte, error) { return refusal(tpm2.TPMRCFailure), nil }, nil},
		{"response cut short", nil, func(_, rsp []byte) ([]byte, error) {
			rsp = bytes.Clone(rsp[:min(len(rsp), 14)])
			rsp[2], rsp[3], rsp[4], rsp[5] = 0, 0, 0, byte(len(rsp))
			return rsp, nil
		}},
		{"garbage", nil, func(_, _ []byte) ([]byte, error) { return []byte("this is no TPM at all"), nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := startTPM(t, swtpm.RSA2048) // with this EK, ActivateCredential needs two policy sessions
			// Without the persistent EK, the package must make the EK as a transient object.
			if err := s.EvictHandle(0x81010001); err != nil {
				t.Fatal(err)
			}
			tpm := open(t, s)
			id := load(t, tpm, Options{})
			blob, enc := credential(t, id.EK.Raw, id.IAKName, newSecret())
			tpm.Close()
			failed := 0
			for n := 1 + i%step; ; n += step {
				tpm := open(t, s)
				link := spyOn(tpm)
				seen := 0
				if c.before != nil {
					link.before = func(_ uint32, cmd []byte) ([]byte, error) {
						if seen++; seen == n {
							return c.before(cmd)
						}
						return nil, nil
					}
				} else {
					link.after = func(_ uint32, cmd, rsp []byte) ([]byte, error) {
						if seen++; seen == n {
							return c.after(cmd, rsp)
						}
						return rsp, nil
					}
				}
				err := onboardOnce(t.Context(), tpm, blob, enc)
				done := seen < n
				if err != nil {
					failed++
				}
				if done && err != nil {
					t.Fatalf("with nothing failing: %v", err)
				}
				if err := tpm.Close(); err != nil && strings.HasPrefix(err.Error(), "identity: flushing") {
					t.Logf("command %d: Close: %v", n, err)
				}
				if h := loaded(t, s); len(h) > 0 {
					t.Fatalf("command %d: left in the TPM: %x (after %v)", n, h, err)
				}
				if done {
					break
				}
			}
			if failed < 15/step {
				t.Errorf("only %d commands failed: the faults were not injected", failed)
			}
		})
	}
}

// TestStaleObjectsOfADeadProcessAreSwept: if objects of a killed process fill the TPM, this package
// flushes these objects, and its own operation succeeds.
func TestStaleObjectsOfADeadProcessAreSwept(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	blob, enc := []byte(nil), []byte(nil)
	{
		tpm := open(t, s)
		id := load(t, tpm, Options{})
		blob, enc = credential(t, id.EK.Raw, id.IAKName, newSecret())
		tpm.Close()
	}
	litter(t, s)
	if n := len(loaded(t, s)); n < 6 {
		t.Fatalf("only %d handles are in use", n)
	}
	tpm := open(t, s)
	if err := onboardOnce(t.Context(), tpm, blob, enc); err != nil {
		t.Fatal(err)
	}
	tpm.Close()
	assertEmpty(t, s)
}

// The function `litter` fills a TPM with keys and sessions, as a process does that is killed before
// it can flush them.
func litter(t *testing.T, s *swtpm.TPM) {
	t.Helper()
	dead := open(t, s)
	dead.sole = false
	end, err := dead.begin(t.Context(), OpMakeKeys)
	if err != nil {
		t.Fatal(err)
	}
	r := &ring{t: dead}
	for range 4 {
		_, template, _ := devidTemplates(P256)
		if err := r.create(&key{template: template}); err != nil {
			break
		}
	}
	for range 4 {
		_, _, err := tpm2.PolicySession(wire{dead}, tpm2.TPMAlgSHA256, nonceSize)
		if err != nil {
			break
		}
	}
	clear(dead.handles) // the memory of a killed process is lost, so no process knows its handles
	end()
}

// TestNeverSweepsBehindAResourceManager: behind a resource manager, loaded objects may belong to
// other programs, so this package does not flush them.
func TestNeverSweepsBehindAResourceManager(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	litter(t, s)
	before := len(loaded(t, s))
	tpm := open(t, s)
	tpm.sole, tpm.managed = false, true
	_, err := Load(t.Context(), tpm, Options{})
	if !errors.Is(err, tpm2.TPMRCObjectMemory) {
		t.Errorf("error %v", err)
	}
	tpm.Close()
	if after := len(loaded(t, s)); after != before {
		t.Errorf("%d of %d handles are left", after, before)
	}
}

// TestTwoUsersOfOneTPM: the TPM has no room for the keys of two users, so each of them finds that
// its keys were flushed, or that one of its handles now refers to a key of the other user.
// Nevertheless, the operations of both users succeed.
func TestTwoUsersOfOneTPM(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.P384)
	a := load(t, open(t, s), Options{})
	b := load(t, open(t, s), Options{Algorithm: P384})
	for range 4 {
		for _, id := range []*Identity{a, b} {
			raw, err := id.Request(info())
			if err != nil {
				t.Fatal(err)
			}
			verifyRequest(t, raw, s.Roots(), s.Issuer())
			secret := newSecret()
			blob, enc := credential(t, id.EK.Raw, id.IAKName, secret)
			if got, err := id.ActivateCredential(blob, enc); err != nil || !bytes.Equal(got, secret) {
				t.Fatal(err)
			}
		}
	}
	var wg sync.WaitGroup
	for _, id := range []*Identity{a, b, a, b} {
		wg.Go(func() {
			for range 5 {
				h := id.IDevID.SchemeHash
				opts, _ := h.Hash()
				digest := make([]byte, opts.Size())
				if _, err := id.Signer().Sign(nil, digest, opts); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestHandleOfAnotherKeyIsNoticed: another process has flushed this package's keys, and its own
// keys have got the same handles. The package must not return a result that was made with such a
// key.
func TestHandleOfAnotherKeyIsNoticed(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.P384)
	a := load(t, open(t, s), Options{})
	b := load(t, open(t, s), Options{Algorithm: P384})
	digest := make([]byte, 32)
	for name, swap := range map[string]func(){
		"IDevID key of another algorithm": func() { a.idevid.handle = b.idevid.handle },
		"IAK of another algorithm":        func() { a.iak.handle = b.iak.handle },
		"IAK for the IDevID key":          func() { a.idevid.handle = a.iak.handle },
		"IDevID key for the IAK":          func() { a.iak.handle = a.idevid.handle },
	} {
		for _, id := range []*Identity{b, a} {
			if _, err := id.Request(info()); err != nil { // loads its keys
				t.Fatal(err)
			}
		}
		swap()
		if _, err := a.Signer().Sign(nil, digest, hashOpts); err != nil {
			t.Errorf("%s: Sign: %v", name, err)
		}
		swap()
		raw, err := a.Request(info())
		if err != nil {
			t.Errorf("%s: Request: %v", name, err)
			continue
		}
		verifyRequest(t, raw, s.Roots(), s.Issuer())
		swap()
		secret := newSecret()
		blob, enc := credential(t, a.EK.Raw, a.IAKName, secret)
		if got, err := a.ActivateCredential(blob, enc); err != nil || !bytes.Equal(got, secret) {
			t.Errorf("%s: ActivateCredential: %v", name, err)
		}
	}
}

// TestSameKeysAfterReset: after a power cycle of the TPM, an identity still works and has the same
// keys.
func TestSameKeysAfterReset(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.P384)
	if err := s.EvictHandle(0x81010016); err != nil {
		t.Fatal(err)
	}
	id := load(t, open(t, s), Options{})
	secret := newSecret()
	blob, enc := credential(t, id.EK.Raw, id.IAKName, secret)
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := id.ActivateCredential(blob, enc); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("the same identity: %v", err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	raw, err := id.Request(info())
	if err != nil {
		t.Fatal(err)
	}
	verifyRequest(t, raw, s.Roots(), s.Issuer())
	handshake(t, id.Signer())
	again := load(t, open(t, s), Options{})
	if !bytes.Equal(again.EK.Raw, id.EK.Raw) || !bytes.Equal(again.IAKName, id.IAKName) || !bytes.Equal(again.IDevIDName, id.IDevIDName) {
		t.Error("other keys")
	}
	again.Close()
	id.Close()
	assertEmpty(t, s)
}

// TestRejectsKeysOfAReplacedTPM: if the TPM is replaced by one that makes other keys, all
// operations of an identity return ErrKeyChanged.
func TestRejectsKeysOfAReplacedTPM(t *testing.T) {
	t.Parallel()
	s, other := startTPM(t, swtpm.RSA2048), newTPMOf(t, swtpm.RSA2048)
	tpm := open(t, s)
	id := load(t, tpm, Options{})
	swapped, err := Open(other.Address())
	if err != nil {
		t.Fatal(err)
	}
	tpm.link = swapped.link
	if _, err := id.Request(info()); !errors.Is(err, ErrKeyChanged) {
		t.Errorf("error %v", err)
	}
	tpm.Close()
	assertEmpty(t, other)
}

// TestFallsBackToRSA: on a TPM without elliptic curves, the IAK and the IDevID key are RSA keys.
func TestFallsBackToRSA(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	noECC := func(tpm *TPM) {
		spyOn(tpm).before = func(code uint32, cmd []byte) ([]byte, error) {
			// These bytes in the TPM2B_PUBLIC are the key's type, ECC (0x0023), and its nameAlg,
			// SHA-256 (0x000B).
			if code == ccCreatePrimary && bytes.Contains(cmd, []byte{0, 0x23, 0, 0x0B}) {
				return refusal(tpm2.TPMRCCurve + 0x240), nil
			}
			return nil, nil
		}
	}
	tpm := open(t, s)
	noECC(tpm)
	id := load(t, tpm, Options{})
	if id.IAK.Algorithm() != "RSA 2048" || id.IDevID.Algorithm() != "RSA 2048" {
		t.Errorf("%s, %s", id.IAK.Algorithm(), id.IDevID.Algorithm())
	}
	raw, err := id.Request(info())
	if err != nil {
		t.Fatal(err)
	}
	verifyRequest(t, raw, s.Roots(), s.Issuer())
	// If the caller requests a curve explicitly, Load makes no other kind of key.
	if _, err := Load(t.Context(), tpm, Options{Algorithm: P256}); !errors.Is(err, tpm2.TPMRCCurve) {
		t.Errorf("error %v", err)
	}
	other := open(t, s)
	noECC(other)
	signer, err := LoadSigner(t.Context(), other, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(signer.IDevIDName, id.IDevIDName) {
		t.Error("LoadSigner made another key than Load")
	}
	signer.Close()
	id.Close()
	assertEmpty(t, s)
}

// TestBusyTPMIsAskedAgain: if the TPM answers a command with a warning that asks for a retry, this
// package sends the same command again.
func TestBusyTPMIsAskedAgain(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	tpm := open(t, s)
	busy := []tpm2.TPMRC{tpm2.TPMRCTesting, tpm2.TPMRCRetry, tpm2.TPMRCYielded}
	spyOn(tpm).before = func(uint32, []byte) ([]byte, error) {
		if len(busy) == 0 {
			return nil, nil
		}
		rc := busy[0]
		busy = busy[1:]
		return refusal(rc), nil
	}
	load(t, tpm, Options{})
	if st := tpm.Stats(); st.Busy != 3 || st.ByOperation[OpFindEK].Commands != 4 {
		t.Errorf("stats %+v", st)
	}
}

// TestAnyResponseIsSurvived alters the responses of a real TPM: it changes, removes and adds
// bytes, and swaps responses. Each operation must return an error or a result without a panic.
// Afterwards the TPM must have room for new objects.
func TestAnyResponseIsSurvived(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	plain := open(t, s)
	id := load(t, plain, Options{})
	blob, enc := credential(t, id.EK.Raw, id.IAKName, newSecret())
	id.Close()
	var tape [][]byte
	spyOn(plain).after = func(_ uint32, _, rsp []byte) ([]byte, error) { tape = append(tape, rsp); return rsp, nil }
	if err := onboardOnce(t.Context(), plain, blob, enc); err != nil {
		t.Fatal(err)
	}
	rounds := uint64(400)
	if testing.Short() { // the short test makes fewer random changes
		rounds = 100
	}
	failed := uint64(0)
	for seed := range rounds {
		rng := rand.New(rand.NewPCG(seed, 1))
		tpm := open(t, s)
		spyOn(tpm).after = func(_ uint32, _, rsp []byte) ([]byte, error) {
			if rng.IntN(20) == 0 {
				return mutate(rng, rsp, tape), nil
			}
			return rsp, nil
		}
		if onboardOnce(t.Context(), tpm, blob, enc) != nil {
			failed++
		}
		tpm.Close()
	}
	if failed < rounds/4 {
		t.Errorf("only %d of %d failed: the responses were not altered", failed, rounds)
	}
	last := open(t, s)
	if err := onboardOnce(t.Context(), last, blob, enc); err != nil {
		t.Error(err)
	}
}

// mutate alters a response. It never makes a response that asks for a retry, because the retries
// would take seconds.
func mutate(rng *rand.Rand, rsp []byte, tape [][]byte) []byte {
	rsp = bytes.Clone(rsp)
	switch rng.IntN(6) {
	case 0:
		rsp = bytes.Clone(tape[rng.IntN(len(tape))])
	case 1:
		rsp = rsp[:rng.IntN(len(rsp)+1)]
	case 2:
		rsp = append(rsp, make([]byte, rng.IntN(600))...)
	case 3: // set the size of the parameters to 0
		if len(rsp) > 14 {
			rsp[10], rsp[11], rsp[12], rsp[13] = 0, 0, 0, 0
		}
	default:
		for range 1 + rng.IntN(4) {
			if len(rsp) > 10 {
				rsp[10+rng.IntN(len(rsp)-10)] = byte(rng.IntN(256))
			}
		}
	}
	if len(rsp) >= 10 && rng.IntN(4) > 0 { // in most cases, correct the size field, so that the content is parsed
		rsp[2], rsp[3], rsp[4], rsp[5] = 0, 0, byte(len(rsp)>>8), byte(len(rsp))
	}
	return rsp
}

// TestEmptyParametersAreNotAPanic: if a response reports success but has no parameters, the
// operation returns an error and does not panic.
func TestEmptyParametersAreNotAPanic(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	tpm := open(t, s)
	id := load(t, tpm, Options{})
	spyOn(tpm).before = func(uint32, []byte) ([]byte, error) {
		// The response consists of the tag, its size, the response code, parameterSize 0, and the
		// answer of a password session.
		return []byte{0x80, 0x02, 0, 0, 0, 19, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0}, nil
	}
	if _, err := id.Signer().Sign(nil, make([]byte, 32), hashOpts); err == nil {
		t.Error("signed")
	}
	if _, err := id.Request(info()); err == nil {
		t.Error("requested")
	}
	if _, err := Load(t.Context(), tpm, Options{}); err == nil {
		t.Error("loaded")
	}
	if _, err := LoadSigner(t.Context(), tpm, Options{}); err == nil {
		t.Error("loaded a signer")
	}
}

func TestPanicIsAnError(t *testing.T) {
	if err := guarded(func() error { panic("x") }); err == nil || !strings.Contains(err.Error(), "unreadable") {
		t.Errorf("error %v", err)
	}
}
