package seal

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"gangway/device/install/approval"
	"gangway/device/install/storagekey"
	"gangway/internal/swtpm"
	"gangway/internal/swtpm/swtpmtest"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// A start lists the things that a machine measures at one boot: the programs that firmware starts
// (PCR 4), the Secure Boot state (PCR 7), the parts of the system (PCR 11), another command line
// (PCR 12) and extensions (PCR 13). If a field is empty, nothing is measured into its PCR.
type start struct{ programs, secureBoot, system, cmdline, extensions string }

// texts returns the texts that the machine measures, by PCR.
func (s start) texts() map[int]string {
	return map[int]string{4: s.programs, 7: s.secureBoot, approval.PCR: s.system, 12: s.cmdline, 13: s.extensions}
}

func (s start) pcrs() map[int][]byte {
	all := map[int][]byte{}
	for n, text := range s.texts() {
		all[n] = make([]byte, 32)
		if text != "" {
			event := sha256.Sum256([]byte(text))
			v := sha256.Sum256(append(all[n], event[:]...))
			all[n] = v[:]
		}
	}
	return all
}

// hex returns the values of the PCRs as a LUKS2 token has them.
func (s start) hex() map[string]string {
	all := map[string]string{}
	for n, v := range s.pcrs() {
		all[fmt.Sprint(n)] = hex.EncodeToString(v)
	}
	return all
}

// binding returns the Binding that admits this boot.
func (s start) binding(owner crypto.PublicKey, limit uint64) Binding {
	return Binding{Owner: owner, PCRs: s.pcrs(), Limit: limit}
}

// boot restarts the machine, which then measures `s`.
func boot(t *testing.T, chip *swtpm.TPM, s start) transport.TPM {
	t.Helper()
	if err := chip.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for n, text := range s.texts() {
		if text == "" {
			continue
		}
		event := sha256.Sum256([]byte(text))
		if err := chip.ExtendPCR(uint32(n), event[:]); err != nil {
			t.Fatal(err)
		}
	}
	return open(t, chip)
}

func approve(t *testing.T, key crypto.Signer, s start) []approval.Approval {
	t.Helper()
	a, err := approval.Sign(key, s.pcrs()[approval.PCR])
	if err != nil {
		t.Fatal(err)
	}
	return []approval.Approval{a}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func p256(t *testing.T) crypto.Signer {
	t.Helper()
	return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
}

var good = start{programs: "boot manager, system 1", secureBoot: "on, db", system: "system 1"}

// bind seals a passphrase to the boot `s`, and returns the passphrase and the LUKS2 token.
func bind(t *testing.T, tpm transport.TPM, owner crypto.PublicKey, s start) ([]byte, json.RawMessage) {
	t.Helper()
	secret := make([]byte, secretSize)
	rand.Read(secret)
	tok := must(Bind(tpm, nil, encode(secret), s.binding(owner, must(Counter(tpm))(t))))(t)[0]
	return encode(secret), must(json.Marshal(tok))(t)
}

func TestApprovedSystemOpensTheDisk(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]crypto.Signer{"RSA": must(rsa.GenerateKey(rand.Reader, 2048))(t), "P-256": p256(t)} {
		t.Run(name, func(t *testing.T) {
			chip := startChip(t)
			passphrase, raw := bind(t, open(t, chip), key.Public(), good) // before the first boot of the system
			tpm := boot(t, chip, good)
			for range 4 { // a TPM has room for few objects and sessions: none may stay
				if got := must(OpenBound(tpm, raw, approve(t, key, good)))(t); !bytes.Equal(got, passphrase) {
					t.Fatal("another passphrase")
				}
			}
		})
	}
}

// Each case breaks one of the conditions of a Binding, so the TPM must not release the passphrase.
// Without Secure Boot, a foreign system can extend PCR 11 to any value, so the case "forged PCR 11"
// is the most likely attack by a thief of the machine.
func TestOtherBootDoesNotOpenTheDisk(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts a TPM for each case")
	}
	owner, thief := p256(t), p256(t)
	older := start{programs: "boot manager, system 0", secureBoot: "on, db", system: "system 0"}
	for name, c := range map[string]struct {
		boot   start
		papers []approval.Approval
	}{
		"forged PCR 11":                {start{programs: "live system", secureBoot: good.secureBoot, system: good.system}, approve(t, owner, good)},
		"Secure Boot off":              {start{programs: good.programs, secureBoot: "off", system: good.system}, approve(t, owner, good)},
		"altered command line":         {start{programs: good.programs, secureBoot: good.secureBoot, system: "system 1, init=/bin/sh"}, approve(t, owner, good)},
		"command line of a boot menu":  {start{good.programs, good.secureBoot, good.system, "init=/bin/sh", ""}, approve(t, owner, good)},
		"extension on the disk":        {start{good.programs, good.secureBoot, good.system, "", "extension"}, approve(t, owner, good)},
		"another system's approval":    {good, approve(t, owner, older)},
		"approved by another key":      {good, approve(t, thief, good)},
		"no approval":                  {good, nil},
		"roll-back to an older system": {older, approve(t, owner, older)},
		"another key's name on it": {good, func() []approval.Approval {
			a := approve(t, thief, good)
			a[0].Key = must(approval.Fingerprint(owner.Public()))(t)
			return a
		}()},
		"approval of no PCR": {good, func() []approval.Approval {
			a := approve(t, owner, good)
			a[0].PCRs = nil
			return a
		}()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			chip := startChip(t)
			_, raw := bind(t, open(t, chip), owner.Public(), good)
			if _, err := OpenBound(boot(t, chip, c.boot), raw, c.papers); !errors.Is(err, ErrNotReleased) {
				t.Errorf("got %v; want ErrNotReleased", err)
			}
		})
	}
}

// The LUKS2 token is not secret and not signed, so a thief can change the conditions in it. The TPM
// must still refuse, because it compares the session's policy with the sealed policy.
func TestAlteredTokenDoesNotOpenTheDisk(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts a TPM for each case")
	}
	owner, thief := p256(t), p256(t)
	live := start{programs: "live system", secureBoot: "off", system: "live system"}
	for name, alter := range map[string]func(tok map[string]any){
		"its own PCR values": func(tok map[string]any) {
			tok["pcrs"] = live.hex()
		},
		"its own PCR values and owner": func(tok map[string]any) {
			tok["pcrs"] = live.hex()
			tok["owner"] = base64.StdEncoding.EncodeToString(must(x509.MarshalPKIXPublicKey(thief.Public()))(t))
		},
		"a higher limit": func(tok map[string]any) { tok["limit"] = 1 << 40 },
	} {
		t.Run(name, func(t *testing.T) {
			chip := startChip(t)
			tpm := open(t, chip)
			_, raw := bind(t, tpm, owner.Public(), good)
			var tok map[string]any
			if err := json.Unmarshal(raw, &tok); err != nil {
				t.Fatal(err)
			}
			alter(tok)
			started, papers := live, append(approve(t, owner, live), approve(t, thief, live)...)
			if name == "a higher limit" {
				started, papers = good, approve(t, owner, good)
			}
			if _, err := OpenBound(boot(t, chip, started), must(json.Marshal(tok))(t), papers); !errors.Is(err, ErrNotReleased) {
				t.Errorf("got %v; want ErrNotReleased", err)
			}
		})
	}
}

// A thief who copied the disk's header before an update has the LUKS2 token of the older system.
// After the counter has advanced beyond the limit, the copy must be worthless, even if the thief
// deletes the counter and makes a new counter.
func TestOldHeaderDoesNotOpenTheDiskAfterTheCounterAdvanced(t *testing.T) {
	t.Parallel()
	owner, chip := p256(t), startChip(t)
	_, old := bind(t, open(t, chip), owner.Public(), good)
	tpm := boot(t, chip, good)
	must(OpenBound(tpm, old, approve(t, owner, good)))(t)
	if err := Advance(tpm, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenBound(tpm, old, approve(t, owner, good)); !errors.Is(err, ErrNotReleased) {
		t.Errorf("after the counter advanced: %v; want ErrNotReleased", err)
	}
	if err := deleteCounter(tpm); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenBound(tpm, old, approve(t, owner, good)); !errors.Is(err, ErrNotReleased) {
		t.Errorf("without a counter: %v; want ErrNotReleased", err)
	}
	must(Counter(tpm))(t)
	if _, err := OpenBound(tpm, old, approve(t, owner, good)); !errors.Is(err, ErrNotReleased) {
		t.Errorf("with a new counter: %v; want ErrNotReleased", err)
	}
}

func deleteCounter(tpm transport.TPM) error {
	name, err := counterName(tpm)
	if err != nil {
		return err
	}
	_, err = tpm2.NVUndefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    tpm2.NamedHandle{Handle: counterIndex, Name: name},
	}.Execute(tpm)
	return err
}

// Gangway writes a LUKS2 token with a higher limit before it advances the counter. The disk must
// open both before and after the counter advances.
func TestHigherLimitOpensBeforeAndAfterTheCounterAdvances(t *testing.T) {
	t.Parallel()
	owner, chip := p256(t), startChip(t)
	tpm := boot(t, chip, good)
	passphrase, _ := bind(t, tpm, owner.Public(), good)
	next := must(json.Marshal(must(Bind(tpm, nil, passphrase, good.binding(owner.Public(), must(Counter(tpm))(t)+1)))(t)[0]))(t)
	must(OpenBound(tpm, next, approve(t, owner, good)))(t)
	if err := Advance(tpm, nil); err != nil {
		t.Fatal(err)
	}
	must(OpenBound(tpm, next, approve(t, owner, good)))(t)
	if err := Advance(tpm, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenBound(tpm, next, approve(t, owner, good)); !errors.Is(err, ErrNotReleased) {
		t.Errorf("beyond the limit: %v; want ErrNotReleased", err)
	}
}

// foreign are the attributes of an NV index that another program uses.
var foreign = tpm2.TPMANV{PPWrite: true, AuthRead: true, PlatformCreate: true, NoDA: true}

// A TPM answers once with an error when Counter asks for the counter's public area. Counter must
// fail and must not advance the counter, which would make the disk's LUKS2 tokens worthless.
func TestFailedReadDoesNotAdvanceTheCounter(t *testing.T) {
	t.Parallel()
	tpm := startTPM(t)
	n := must(Counter(tpm))(t)
	for name, rc := range map[string]tpm2.TPMRC{"failure": tpm2.TPMRCFailure, "no such index": tpm2.TPMRCHandle} {
		bus, failed := &swtpmtest.Bus{TPM: tpm}, false
		bus.Alter(func(code tpm2.TPMCC, rsp []byte) []byte {
			if code != tpm2.TPMCCNVReadPublic || failed {
				return rsp
			}
			failed = true
			return binary.BigEndian.AppendUint32([]byte{0x80, 0x01, 0, 0, 0, 10}, uint32(rc))
		})
		if got, err := Counter(bus); err == nil {
			t.Errorf("%s: got the counter %d; want an error", name, got)
		}
		if now := must(Counter(tpm))(t); now != n {
			t.Errorf("%s: the counter went from %d to %d", name, n, now)
		}
	}
}

// If a power cut came after the counter was made and before it got its first value, the next call
// of Counter gives it a value.
func TestCounterWithoutAValueGetsOne(t *testing.T) {
	t.Parallel()
	tpm := startTPM(t)
	define := tpm2.NVDefineSpace{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, PublicInfo: tpm2.New2B(counterPublic)}
	if _, err := define.Execute(tpm); err != nil {
		t.Fatal(err)
	}
	if n := must(Counter(tpm))(t); n == 0 || must(Counter(tpm))(t) != n {
		t.Errorf("the counter has the value %d, and does not keep it", n)
	}
}

// Gangway does not touch an NV index that another program uses.
func TestForeignCounterIsLeftAlone(t *testing.T) {
	t.Parallel()
	chip := startChip(t)
	if err := chip.DefineNV(counterIndex, []byte("12345678"), foreign); err != nil {
		t.Fatal(err)
	}
	if n, err := Counter(open(t, chip)); err == nil {
		t.Errorf("got the counter %d; want an error", n)
	}
}

// commands counts the commands of each kind (TPM_CC) that a TPM gets.
type commands struct {
	transport.TPM
	count map[tpm2.TPMCC]int
}

func (c *commands) Send(command []byte) ([]byte, error) {
	c.count[tpm2.TPMCC(binary.BigEndian.Uint32(command[6:]))]++ // after the tag and the size
	return c.TPM.Send(command)
}

func TestStorageKeyIsMadeOnceForAllBindings(t *testing.T) {
	t.Parallel()
	chip, key := startChip(t), p256(t)
	counting := &commands{open(t, chip), map[tpm2.TPMCC]int{}}
	tpm := storagekey.Hold(counting)
	other := good
	other.programs = "boot manager, system 2"
	n := must(Counter(tpm))(t)
	secret := make([]byte, secretSize)
	toks := must(Bind(tpm, nil, encode(secret), other.binding(key.Public(), n), good.binding(key.Public(), n)))(t)
	tpm.Close()
	if made := counting.count[tpm2.TPMCCCreatePrimary]; made != 1 || len(toks) != 2 {
		t.Errorf("%d storage keys for %d tokens", made, len(toks))
	}
	raw := must(json.Marshal(toks[1]))(t)
	if got := must(OpenBound(boot(t, chip, good), raw, approve(t, key, good)))(t); !bytes.Equal(got, encode(secret)) {
		t.Error("another passphrase")
	}
}

func TestBindingNeedsEveryPCR(t *testing.T) {
	t.Parallel()
	tpm := open(t, startChip(t))
	must(Counter(tpm))(t)
	for _, n := range Required {
		b := good.binding(p256(t).Public(), 1)
		delete(b.PCRs, n)
		if _, err := Bind(tpm, nil, encode(make([]byte, secretSize)), b); err == nil {
			t.Errorf("a binding without PCR %d was accepted", n)
		}
	}
}
