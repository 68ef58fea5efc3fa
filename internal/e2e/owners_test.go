package e2e_test

import (
	"errors"
	"strings"
	"testing"

	"gangway/device/agent"
	"gangway/hub/evidence"
	hubside "gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/internal/hubtest"
	"gangway/internal/swtpm"
)

// If a TPM has certificates for two EKs, and the policy accepts both kinds of EK, two owners can
// onboard this TPM, because nothing in the TPM links the EKs (docs/security.md, "Known limits"). A
// policy that accepts only one kind of EK prevents this.
func TestTwoOwnersOfOneTPM(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384) // this TPM has an RSA 2048 EK (L-1) and a P-384 EK (H-3)
	h := newHub(t, tpm)
	mallory := h.Account(t, "mallory")
	try := func(who store.Account, ek, key string) string {
		t.Helper()
		_, err := onboardWith(t, agent.Config{Token: h.Token(t, who, nil), TPM: tpm.Address(), StateDir: t.TempDir(), EK: ek, Key: key})
		var refused *agent.Refused
		switch {
		case err == nil:
			return ""
		case errors.As(err, &refused):
			return refused.Code
		}
		t.Fatal(err)
		return ""
	}
	want := func(when, got, code string) {
		t.Helper()
		if got != code {
			t.Errorf("%s: %q, want %q", when, got, code)
		}
	}
	h.Policy(t, store.HubWide, hubtest.LabPolicy+"ek_kinds: {swtpm: [L-1]}\n")
	want("the first owner", try(h.Owner, "L-1", "P-256"), "")
	want("the other EK, which the policy does not allow", try(mallory, "H-3", "P-384"), evidence.CodeKind)
	want("the same EK", try(mallory, "L-1", "P-256"), hubside.CodeOtherOwner)
	// The default policy accepts both kinds of EK.
	h.Policy(t, store.HubWide, hubtest.LabPolicy)
	want("the other EK with the same IAK", try(mallory, "H-3", "P-256"), hubside.CodeOtherEK)
	events, err := h.Store.Events(t.Context(), store.EventFilter{Owner: h.Owner.ID})
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	for _, e := range events {
		if e.Kind == "device.other-owner-tried" {
			codes = append(codes, e.Code)
		}
	}
	if strings.Join(codes, " ") != hubside.CodeOtherEK+" "+hubside.CodeOtherOwner {
		t.Errorf("events for the first owner have the codes %q", codes)
	}
	want("the other EK with another IAK", try(mallory, "H-3", "P-384"), "")
}
