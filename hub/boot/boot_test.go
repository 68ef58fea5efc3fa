package boot_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gangway/hub/boot"
	"gangway/hub/evidence"
	"gangway/internal/eventlog"
	"gangway/internal/fleet"
	"gangway/tcg"
	"gangway/wire"
)

var machine = sync.OnceValues(func() (*fleet.Device, error) {
	m, err := fleet.NewMaker("good", fleet.MakerOptions{})
	if err != nil {
		return nil, err
	}
	return fleet.New(m, "H-2")
})

var nonce = bytes.Repeat([]byte{7}, 32)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// measured returns the evidence that a machine sends after a boot.
func measured(t testing.TB, l eventlog.Log) (*fleet.Device, *boot.Evidence) {
	t.Helper()
	d := must(machine())(t)
	e := &boot.Evidence{Nonce: nonce, Bank: tcg.AlgSHA256, PCRs: l.PCRs(), Log: l.Bytes()}
	sign(t, d, e)
	return d, e
}

// sign makes the device's TPM quote the nonce, the log and the PCR values in `e`. It sets
// `e.Attest` and `e.Signature`.
func sign(t testing.TB, d *fleet.Device, e *boot.Evidence) {
	t.Helper()
	var err error
	if e.Attest, e.Signature, err = d.Quote(wire.BootQualifying(e.Nonce, e.Log), e.Bank, e.PCRs, 1); err != nil {
		t.Fatal(err)
	}
}

func verify(t testing.TB, l eventlog.Log) *boot.Measurement {
	t.Helper()
	d, e := measured(t, l)
	return must(boot.Verify(d.IAK.Public, e))(t)
}

func refused(t testing.TB, d *fleet.Device, e *boot.Evidence, code string) {
	t.Helper()
	_, err := boot.Verify(d.IAK.Public, e)
	var r *evidence.Refusal
	if !errors.As(err, &r) || r.Code != code || r.Hint == "" || !strings.HasSuffix(r.Reason, ".") {
		t.Errorf("error %v; %q was expected", err, code)
	}
}

var may3 = time.Date(2026, 5, 3, 12, 0, 0, 0, time.UTC)

func words(changes []boot.Change) (out []string) {
	for _, c := range changes {
		out = append(out, c.Words)
	}
	return out
}

func TestSameBootMatchesItsReference(t *testing.T) {
	t.Parallel()
	m := verify(t, eventlog.Boot(true, "linux 1", "quiet"))
	if m.SecureBoot != "on" || m.Bank != "SHA-256" || !m.Log || len(m.Unexplained) != 0 || m.ResetCount != 1 {
		t.Errorf("%+v", m)
	}
	r := boot.NewReference(m, "the first boot", may3)
	if c := boot.Compare(r, verify(t, eventlog.Boot(true, "linux 1", "quiet"))); len(c) != 0 {
		t.Errorf("%+v", c)
	}
}

func TestChangeIsNamedInWords(t *testing.T) {
	t.Parallel()
	r := boot.NewReference(verify(t, eventlog.Boot(true, "linux 1", "quiet")), "the first boot", may3)
	for _, c := range []struct {
		name string
		log  eventlog.Log
		says []string
	}{
		{"another kernel", eventlog.Boot(true, "linux 2", "quiet"), []string{"The kernel's hash differs from the reference of 3 May 2026.", "The boot image's hash differs from the reference of 3 May 2026."}},
		{"another command line", eventlog.Boot(true, "linux 1", "init=/bin/sh"), []string{"The kernel command line's hash differs from the reference of 3 May 2026."}},
		{"Secure Boot off", eventlog.Boot(false, "linux 1", "quiet"), []string{`Secure Boot variable SecureBoot differs from the reference of 3 May 2026: "on", then "off".`}},
		{"one more image", append(eventlog.Boot(true, "linux 1", "quiet"), eventlog.Event{PCR: 4, Type: eventlog.EFIBootApplication, Data: []byte{1}}), []string{"Boot image 2 was measured, but is not in the reference of 3 May 2026."}},
		{"a command line besides", append(eventlog.Boot(true, "linux 1", "quiet"), eventlog.Event{PCR: 12, Type: eventlog.IPL, Data: eventlog.UTF16("debug")}), []string{"The kernel command line was measured, but is not in the reference of 3 May 2026."}},
		{"nothing after the firmware", eventlog.Boot(true, "linux 1", "quiet")[:12], []string{"The kernel was measured in the reference of 3 May 2026, but is no longer measured."}},
	} {
		got := words(boot.Compare(r, verify(t, c.log)))
		for _, want := range c.says {
			if !slices.Contains(got, want) {
				t.Errorf("%s: %q is not among %q", c.name, want, got)
			}
		}
	}
}

// If the same events come in another order, the PCR values differ.
func TestOrderCounts(t *testing.T) {
	t.Parallel()
	l := eventlog.Boot(true, "linux 1", "quiet")
	r := boot.NewReference(verify(t, l), "the first boot", may3)
	l[1], l[2] = l[2], l[1]
	if got := words(boot.Compare(r, verify(t, l))); len(got) != 1 || !strings.Contains(got[0], "in another order") {
		t.Errorf("%q", got)
	}
}

// The log explains a PCR. Then a program extends this PCR without a log entry, so the log does not
// explain the PCR any more. Compare reports this as a change.
func TestPCRThatIsNoLongerExplainedIsAChange(t *testing.T) {
	t.Parallel()
	l := eventlog.Boot(true, "linux 1", "quiet")
	r := boot.NewReference(verify(t, l), "the first boot", may3)
	d, e := measured(t, eventlog.Boot(true, "evil", "quiet"))
	extended := sha256.Sum256(append(slices.Clone(e.PCRs[11]), nonce...))
	e.PCRs[11] = extended[:]
	sign(t, d, e)
	m := must(boot.Verify(d.IAK.Public, e))(t)
	if !slices.Equal(m.Unexplained, []int{11}) {
		t.Errorf("unexplained %v", m.Unexplained)
	}
	found := false
	for _, w := range words(boot.Compare(r, m)) {
		found = found || strings.HasPrefix(w, "PCR 11 differs from the reference of 3 May 2026, and the event log no longer explains it")
	}
	if !found {
		t.Errorf("%q", words(boot.Compare(r, m)))
	}
}

// A running system extends PCR 10, so SameBoot ignores PCR 10. If any other PCR or counter differs,
// the measurement is of another boot.
func TestAnotherBootIsToldFromTheSameShownAgain(t *testing.T) {
	t.Parallel()
	m := verify(t, eventlog.Boot(true, "linux 1", "quiet"))
	altered := func(alter func(*boot.Measurement)) *boot.Measurement {
		o := *m
		o.PCRs, o.Events, o.Unexplained = slices.Clone(m.PCRs), slices.Clone(m.Events), slices.Clone(m.Unexplained)
		alter(&o)
		return &o
	}
	for name, alter := range map[string]func(*boot.Measurement){
		"nothing": func(*boot.Measurement) {},
		"PCR 10":  func(o *boot.Measurement) { o.PCRs[10] = "00" },
		"clock":   func(o *boot.Measurement) { o.Clock++ },
	} {
		if !m.SameBoot(altered(alter)) {
			t.Errorf("another %s makes it another boot", name)
		}
	}
	for name, alter := range map[string]func(*boot.Measurement){
		"resets":      func(o *boot.Measurement) { o.ResetCount++ },
		"restarts":    func(o *boot.Measurement) { o.RestartCount++ },
		"firmware":    func(o *boot.Measurement) { o.Version++ },
		"bank":        func(o *boot.Measurement) { o.Bank = "SHA-384" },
		"PCR 15":      func(o *boot.Measurement) { o.PCRs[15] = "00" },
		"no log":      func(o *boot.Measurement) { o.Log = false },
		"no event":    func(o *boot.Measurement) { o.Events = o.Events[1:] },
		"other event": func(o *boot.Measurement) { o.Events[0].Text += " " },
		"unexplained": func(o *boot.Measurement) { o.Unexplained = append(o.Unexplained, 12) },
	} {
		if m.SameBoot(altered(alter)) {
			t.Errorf("%s: it is treated as the same boot", name)
		}
	}
}

func TestPCR10IsNotCompared(t *testing.T) {
	t.Parallel()
	boots := func(ima string) *boot.Measurement {
		d, e := measured(t, eventlog.Boot(true, "linux 1", "quiet"))
		v := sha256.Sum256([]byte(ima))
		e.PCRs[10] = v[:]
		sign(t, d, e)
		return must(boot.Verify(d.IAK.Public, e))(t)
	}
	r := boot.NewReference(boots("a"), "the first boot", may3)
	if c := boot.Compare(r, boots("b")); len(c) != 0 {
		t.Errorf("%+v", c)
	}
}

// If a device sends no event log, Compare still compares the PCR values.
func TestWithoutALogTheValuesCount(t *testing.T) {
	t.Parallel()
	without := func(l eventlog.Log) *boot.Measurement {
		d, e := measured(t, l)
		e.Log = nil
		sign(t, d, e)
		return must(boot.Verify(d.IAK.Public, e))(t)
	}
	m := without(eventlog.Boot(true, "linux 1", "quiet"))
	if m.Log || m.SecureBoot != "not told" {
		t.Errorf("%+v", m)
	}
	r := boot.NewReference(m, "the first boot", may3)
	if c := boot.Compare(r, without(eventlog.Boot(true, "linux 1", "quiet"))); len(c) != 0 {
		t.Errorf("%+v", c)
	}
	if got := words(boot.Compare(r, without(eventlog.Boot(true, "linux 2", "quiet")))); !slices.Contains(got, "PCR 4 differs from the reference of 3 May 2026.") {
		t.Errorf("%q", got)
	}
}

func TestRejectsQuoteOverAnotherNonce(t *testing.T) {
	t.Parallel()
	d, e := measured(t, eventlog.Boot(true, "linux 1", "quiet"))
	e.Nonce = bytes.Repeat([]byte{8}, 32)
	refused(t, d, e, boot.CodeNonce)
}

func TestRejectsQuoteByAnotherKey(t *testing.T) {
	t.Parallel()
	d, e := measured(t, eventlog.Boot(true, "linux 1", "quiet"))
	other := must(d.WithNewIdentity())(t)
	refused(t, other, e, boot.CodeSigner)
	// A quote names the right signer, but another key signed the quote. Verify refuses this quote.
	_, e.Signature, _ = other.Quote(wire.BootQualifying(nonce, e.Log), tcg.AlgSHA256, e.PCRs, 1)
	refused(t, d, e, boot.CodeSigner)
}

func TestRejectsCertifyInThePlaceOfAQuote(t *testing.T) {
	t.Parallel()
	d, e := measured(t, eventlog.Boot(true, "linux 1", "quiet"))
	e.Attest = fleet.Attest(d.IAK.Name(), d.IDevID.Name())
	e.Signature = must(d.IAK.Sign(e.Attest))(t)
	refused(t, d, e, boot.CodeMalformed)
}

func TestRejectsQuoteOverOtherPCRsOrAWeakBank(t *testing.T) {
	t.Parallel()
	d, e := measured(t, eventlog.Boot(true, "linux 1", "quiet"))
	few := *e
	few.Attest, few.Signature, _ = d.Quote(wire.BootQualifying(nonce, e.Log), tcg.AlgSHA256, e.PCRs[:8], 1)
	refused(t, d, &few, boot.CodeSelection)
	weak := *e
	weak.Bank = 0x0004 // SHA-1
	weak.Attest, weak.Signature, _ = d.Quote(wire.BootQualifying(nonce, e.Log), weak.Bank, e.PCRs, 1)
	refused(t, d, &weak, boot.CodeSelection)
	other := *e
	other.Bank = tcg.AlgSHA384
	refused(t, d, &other, boot.CodeSelection)
}

func TestRejectsPCRValuesThatWereNotQuoted(t *testing.T) {
	t.Parallel()
	d, e := measured(t, eventlog.Boot(true, "evil", "quiet"))
	good := eventlog.Boot(true, "linux 1", "quiet")
	e.PCRs = good.PCRs()
	refused(t, d, e, boot.CodeValues)
	e.PCRs = e.PCRs[:15]
	refused(t, d, e, boot.CodeValues)
	e.PCRs = append(e.PCRs, nil)
	refused(t, d, e, boot.CodeValues)
}

// If someone replaces the log in transit, the evidence is refused, because the quote covers the
// log. If the device makes its own TPM quote a false log, the evidence is accepted. But the false
// log explains nothing, because the TPM quotes its real PCR values.
func TestLogOfAnotherBootSaysNothing(t *testing.T) {
	t.Parallel()
	r := boot.NewReference(verify(t, eventlog.Boot(true, "linux 1", "quiet")), "the first boot", may3)
	d, e := measured(t, eventlog.Boot(false, "evil", "quiet"))
	for _, c := range []struct {
		log         []byte
		state       string
		unexplained []int
	}{
		{eventlog.Boot(true, "linux 1", "quiet").Bytes(), boot.LogWhole, []int{4, 7, 11}},
		{append([]byte("CCEL8\x00\x00\x00"), make([]byte, 48)...), boot.LogUnreadable, []int{0, 1, 2, 3, 4, 5, 6, 7, 11}},
		{[]byte("no log"), boot.LogUnreadable, []int{0, 1, 2, 3, 4, 5, 6, 7, 11}},
		{make([]byte, 100), boot.LogUnreadable, []int{0, 1, 2, 3, 4, 5, 6, 7, 11}},
		{make([]byte, boot.MaxLog+1), boot.LogUnreadable, []int{0, 1, 2, 3, 4, 5, 6, 7, 11}},
	} {
		e.Log = c.log
		refused(t, d, e, boot.CodeNonce)
		sign(t, d, e)
		m := must(boot.Verify(d.IAK.Public, e))(t)
		if m.LogState != c.state || !slices.Equal(m.Unexplained, c.unexplained) || m.SecureBoot != "not told" {
			t.Errorf("log %s, PCRs %v are unexplained, Secure Boot %s", m.LogState, m.Unexplained, m.SecureBoot)
		}
		changed := map[int]bool{}
		for _, c := range boot.Compare(r, m) {
			changed[c.PCR] = true
		}
		if !changed[4] || !changed[7] || !changed[11] {
			t.Errorf("log %s: %v changed", m.LogState, changed)
		}
	}
}

// A device sends a log with an event that has the text "on" and the digest of "off". The hub does
// not show the text "on".
func TestTextThatWasNotMeasuredIsNotShown(t *testing.T) {
	t.Parallel()
	l := eventlog.Boot(false, "linux 1", "quiet")
	digest := sha256.Sum256(l[1].Data)
	l[1].Data, l[1].Digest = eventlog.Variable("SecureBoot", []byte{1}), digest[:]
	m := verify(t, l)
	if m.SecureBoot != "not told" {
		t.Errorf("Secure Boot %q", m.SecureBoot)
	}
	for _, e := range m.Events {
		if e.PCR == 7 && e.Text != "" {
			t.Errorf("%+v", e)
		}
	}
}

// An owner can enter the PCR values of a reference, instead of accepting a boot as the reference.
func TestReferenceGivenAsValues(t *testing.T) {
	t.Parallel()
	m := verify(t, eventlog.Boot(true, "linux 1", "quiet"))
	r := &boot.Reference{Bank: "SHA-256", PCRs: map[int]string{4: strings.ToUpper(m.PCRs[4]), 7: m.PCRs[7]}, Since: may3}
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
	if c := boot.Compare(r, m); len(c) != 0 {
		t.Errorf("%+v", c)
	}
	if c := boot.Compare(r, verify(t, eventlog.Boot(true, "linux 2", "quiet"))); len(c) == 0 {
		t.Error("another kernel matches")
	}
	for _, bad := range []*boot.Reference{{}, {Bank: "SHA-1", PCRs: r.PCRs}, {Bank: "SHA-256"}, {Bank: "SHA-384", PCRs: r.PCRs}, {Bank: "SHA-256", PCRs: map[int]string{16: m.PCRs[0]}}, {Bank: "SHA-256", PCRs: map[int]string{0: "x"}}} {
		if bad.Check() == nil {
			t.Errorf("%+v is a reference", bad)
		}
	}
}

// The hub accepts none of 1,000 altered logs, because the TPM signed the hash of the original log.
// If the device makes its TPM sign the altered log, the boot does not match the reference. The
// exception is a change in bytes that no digest covers, because Compare ignores such bytes.
func TestRejectsThousandMutatedLogs(t *testing.T) {
	t.Parallel()
	l := eventlog.Boot(true, "linux 1", "quiet")
	d, e := measured(t, l)
	good := must(boot.Verify(d.IAK.Public, e))(t)
	r := boot.NewReference(good, "the first boot", may3)
	rnd := rand.New(rand.NewPCG(1, 2))
	log, attest, signature := e.Log, e.Attest, e.Signature
	matched := 0
	for i := range 1000 {
		switch i % 5 {
		case 0, 1, 2: // alter an event and the digest that it extended
			m := slices.Clone(l)
			at := rnd.IntN(len(m))
			digest := sha256.Sum256(binary.LittleEndian.AppendUint64(nil, rnd.Uint64()))
			switch i % 5 {
			case 0:
				m[at].Digest = digest[:]
			case 1:
				m[at].PCR = (m[at].PCR + 1 + rnd.IntN(15)) % 16
			case 2:
				if other := rnd.IntN(len(m)); m[at].PCR == m[other].PCR && at != other {
					m[at], m[other] = m[other], m[at]
				} else {
					m = slices.Delete(m, at, at+1)
				}
			}
			e.Log = m.Bytes()
		case 3: // double an event, or cut the end
			if m := slices.Clone(l); rnd.IntN(2) == 0 {
				at := rnd.IntN(len(m))
				e.Log = slices.Insert(m, at, m[at]).Bytes()
			} else {
				e.Log = log[:rnd.IntN(len(log)-1)+1]
			}
		case 4: // alter any byte
			e.Log = slices.Clone(log)
			e.Log[rnd.IntN(len(log))] ^= byte(1 + rnd.IntN(255))
		}
		if bytes.Equal(e.Log, log) {
			continue
		}
		e.Attest, e.Signature = attest, signature
		refused(t, d, e, boot.CodeNonce)
		sign(t, d, e)
		m, err := boot.Verify(d.IAK.Public, e)
		if err != nil || len(boot.Compare(r, m)) > 0 {
			continue
		}
		if i%5 != 4 {
			t.Fatalf("mutation %d matches the reference", i)
		}
		matched++
		digests := func(m *boot.Measurement) (out []string) {
			for _, e := range m.Events {
				out = append(out, e.Digest)
			}
			return out
		}
		if !reflect.DeepEqual(digests(m), digests(good)) || m.SecureBoot != "on" && m.SecureBoot != "not told" {
			t.Fatalf("mutation %d changed the measurement: %+v", i, m)
		}
	}
	t.Logf("%d mutations were of bytes that no digest covers", matched)
}

func FuzzVerify(f *testing.F) {
	d, e := measured(f, eventlog.Boot(true, "linux 1", "quiet"))
	f.Add(e.Attest, e.Signature, e.Log)
	f.Fuzz(func(t *testing.T, attest, signature, log []byte) {
		m, err := boot.Verify(d.IAK.Public, &boot.Evidence{Nonce: e.Nonce, Bank: e.Bank, PCRs: e.PCRs, Attest: attest, Signature: signature, Log: log})
		var r *evidence.Refusal
		if err != nil && !errors.As(err, &r) {
			t.Fatalf("the error is not a refusal: %v", err)
		}
		if err == nil && (!bytes.Equal(attest, e.Attest) || !bytes.Equal(log, e.Log)) {
			t.Fatal("a quote over other data was accepted")
		}
		if err == nil {
			boot.Compare(boot.NewReference(m, "itself", may3), m)
		}
	})
}

// No log makes Verify or Compare panic, even if the device's TPM signed the log.
func FuzzEventLog(f *testing.F) {
	d, e := measured(f, eventlog.Boot(true, "linux 1", "quiet"))
	f.Add(e.Log)
	f.Add(e.Log[headerSize:])
	f.Add(append(slices.Clone(e.Log), make([]byte, 40)...))
	f.Add(slices.Concat(old(0, 7, []byte("contents")), old(0, 8, []byte("1.0"))))
	for _, name := range []string{"uki", "sdboot"} {
		_, log := real(f, name)
		f.Add(log)
	}
	f.Fuzz(func(t *testing.T, log []byte) {
		lie := *e
		lie.Log = log
		sign(t, d, &lie)
		m, err := boot.Verify(d.IAK.Public, &lie)
		var r *evidence.Refusal
		if err != nil && !errors.As(err, &r) {
			t.Fatalf("the error is not a refusal: %v", err)
		}
		if err == nil {
			boot.Compare(boot.NewReference(m, "itself", may3), m)
		}
	})
}
