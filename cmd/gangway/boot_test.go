package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"gangway/hub/boot"
	"gangway/hub/store"
)

// 'gangway device boot' prints the state of the device's boot, for example "matches" or
// "nothing-measured". The event log may contain descriptions that the TPM's signature does not
// cover; the command marks them with "log:". For a refused measurement, the command prints the
// remedy.
func TestDeviceBootShowsEachState(t *testing.T) {
	h, run := onboarded(t, nil)
	d := only(t, h)
	shows := func(want ...string) {
		t.Helper()
		out, notes, err := run("", "device", "boot", d.ID)
		if err != nil {
			t.Fatal(err, notes)
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("device boot does not show %q:\n%s", w, out)
			}
		}
		if strings.ContainsAny(out, "\x1b\x07") {
			t.Errorf("device boot prints control characters: %q", out)
		}
	}
	encode := func(v any) []byte {
		t.Helper()
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	shows("unmeasured")
	zero := make([]string, boot.PCRs)
	for i := range zero {
		zero[i] = strings.Repeat("0", 64)
	}
	m := boot.Measurement{Bank: "SHA-256", PCRs: zero, SecureBoot: "not told", Log: true, LogState: boot.LogPart, LogProblem: "The event log ends inside an event.",
		Unexplained: []int{4, 7}, Events: []boot.Event{{PCR: 9, What: "something that the boot loader measured into PCR 9", Digest: "aa", Label: "Linux\x1b initrd"}}}
	put := func(state string, changes ...boot.Change) {
		t.Helper()
		if _, err := h.Store.PutBoot(t.Context(), store.Boot{Device: d.ID, Time: time.Now(), State: state, Measurement: encode(m), Changes: encode(changes)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	put(store.BootNothing, boot.Change{PCR: -1, Words: "The firmware measured nothing."})
	shows("nothing-measured", "✗ The firmware measured nothing.", "The event log ends inside an event.", "PCR 4, 7: the event log does not explain", `[log: Linux\x1b initrd]`)
	if _, _, err := run("", "device", "boot", d.ID, "--accept"); err == nil || !strings.Contains(err.Error(), "boot-nothing-measured") {
		t.Errorf("accepting an empty measurement: got %v, want boot-nothing-measured", err)
	}
	put(store.BootMatches)
	shows("matches")
	if _, err := h.Store.RefuseBoot(t.Context(), d.ID, store.BootRefusal{Time: time.Now(), Code: "boot-nonce", Reason: "The nonce is too old.", Hint: "Measure \x1b[2Jagain."}); err != nil {
		t.Fatal(err)
	}
	shows("refused", "The nonce is too old. (boot-nonce)", `Measure \x1b[2Jagain.`)
	if out, _, err := run("", "device", "ls"); err != nil || !strings.Contains(out, "refused") || strings.Contains(out, "matches") {
		t.Errorf("device ls after a refusal: %v: %s", err, out)
	}
}
