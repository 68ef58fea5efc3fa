package doctor_test

import (
	"path/filepath"
	"testing"
	"time"

	"gangway/hub/doctor"
	"gangway/hub/pki"
	"gangway/internal/finding"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
)

// The operator renews the attestation CA and the device CA twice, with new keys. The certificates
// of devices that onboarded before are still right, so the operator must not be told to delete
// these devices. With the CAs of another hub, the same certificates are wrong.
func TestDevicesOfFormerCAsAreRight(t *testing.T) {
	t.Parallel()
	maker, err := fleet.NewMaker("Maker", fleet.MakerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h := hubtest.New(t, maker.Roots(), maker.Intermediates())
	tok := h.Token(t, h.Owner, nil)
	hub, err := fleet.NewHub(tok)
	if err != nil {
		t.Fatal(err)
	}
	d, err := fleet.New(maker, "H-2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Onboard(t.Context(), hub, tok); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(h.Data(), "pki")
	for i := range 2 {
		renew(t, dir, time.Now().Add(time.Duration(i)*time.Minute))
	}
	renewed, err := pki.Open(dir, pki.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if renewed.ACA().Equal(h.CA.ACA()) || renewed.DeviceCA().Equal(h.CA.DeviceCA()) {
		t.Fatal("the CAs were not renewed")
	}
	findings, err := doctor.Identities(t.Context(), h.Store, renewed)
	if err != nil || finding.Worst(findings) == finding.Problem {
		t.Errorf("after the renewal, fsck finds %+v, %v", findings, err)
	}
	other, err := pki.Open(filepath.Join(t.TempDir(), "pki"), pki.Options{Name: "Other"})
	if err != nil {
		t.Fatal(err)
	}
	if findings, err := doctor.Identities(t.Context(), h.Store, other); err != nil || finding.Worst(findings) != finding.Problem {
		t.Errorf("with the CAs of another hub, fsck finds %+v, %v", findings, err)
	}
}

// renew gives the attestation CA and the device CA of a hub new keys, which the root in the same
// folder certifies.
func renew(t *testing.T, dir string, now time.Time) {
	t.Helper()
	request, _, err := pki.NewRequest(t.Context(), dir, pki.RequestOptions{CAs: []string{"aca", "device-ca"}})
	if err != nil {
		t.Fatal(err)
	}
	root, err := pki.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := root.Plan(request, now, pki.DefaultTLSLife)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := root.Issue(plan)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Install(dir, answer, "", now); err != nil {
		t.Fatal(err)
	}
}
