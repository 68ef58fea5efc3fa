package evidence_test

import (
	"encoding/json"
	"testing"

	"gangway/hub/evidence"
	"gangway/internal/fleet"
	"gangway/wire"
)

// The parsers do not panic on any input. Verify can judge every request that the parsers accept.
func FuzzParseRegistration(f *testing.F) {
	maker, err := fleet.NewMaker("good", fleet.MakerOptions{})
	if err != nil {
		f.Fatal(err)
	}
	d, err := fleet.New(maker, "H-2")
	if err != nil {
		f.Fatal(err)
	}
	token := &wire.TokenFile{ID: wire.NewID(), Owner: wire.AccountPRN + wire.NewID(), Token: "MDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1u"}
	body, err := d.Registration(token, wire.StepKeys{}, fleet.RegistrationChange{})
	if err != nil {
		f.Fatal(err)
	}
	first, err := json.Marshal(d.EnrollRequest())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add(first)
	trust, err := evidence.NewTrust(maker.Roots(), maker.Intermediates())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var in wire.Registration
		if json.Unmarshal(b, &in) == nil {
			if r, err := evidence.ParseRegistration(&in); err == nil {
				evidence.Verify(new(evidence.Verdict), r, &evidence.Input{Trust: trust, Policy: evidence.DefaultPolicy()})
			}
		}
		var keys wire.EnrollRequest
		if json.Unmarshal(b, &keys) == nil {
			if r, err := evidence.ParseKeys(&keys); err == nil {
				evidence.VerifyKeys(new(evidence.Verdict), r, &evidence.Input{Trust: trust, Policy: evidence.DefaultPolicy()})
			}
		}
	})
}
