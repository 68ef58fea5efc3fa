package main

import (
	"bytes"
	"strings"
	"testing"

	"gangway/internal/fleet"
)

// If a machine has no EK certificate, 'gangway device show' and 'gangway device approve' tell the
// owner what the missing certificate may hide.
func TestApprovingWithoutACertificateSaysWhatThatMayHide(t *testing.T) {
	var seen *fleet.Device
	h, run := onboarded(t, func(d *fleet.Device) { seen = d })
	bare, err := seen.WithoutCertificate()
	if err != nil {
		t.Fatal(err)
	}
	tok := h.Token(t, h.Owner, nil)
	client, err := fleet.NewHub(tok)
	if err != nil {
		t.Fatal(err)
	}
	body, err := bare.Request(tok, fleet.RequestChange{})
	if err != nil {
		t.Fatal(err)
	}
	a, err := client.Post(t.Context(), "/onboard", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if a.Status != 202 {
		t.Fatalf("POST /onboard: got status %d, want 202", a.Status)
	}
	out, _, err := run("", "device", "ls")
	if err != nil || !strings.Contains(out, "ek-certificate-none") {
		t.Fatalf("device ls: %v: %s", err, out)
	}
	list, err := h.Store.WaitingDevices(t.Context(), h.Owner.ID, h.Now(), 10)
	if err != nil || len(list) != 1 {
		t.Fatalf("got %d waiting devices, %v; want 1", len(list), err)
	}
	for _, command := range []string{"show", "approve"} {
		out, _, err := run("", "device", command, list[0].DeviceID)
		if err != nil || !strings.Contains(out, "may have left out the TPM's own certificate to hide one of these facts: the TPM is an emulator") {
			t.Errorf("%s: %v: %s", command, err, out)
		}
		if command == "show" && (!strings.Contains(out, "– ek-chain") || !strings.Contains(out, "? ek-certificate") || !strings.Contains(out, "✓ certify")) {
			t.Errorf("a skipped check has the wrong mark: %s", out)
		}
	}
}
