package evidence_test

import (
	"encoding/json"
	"testing"

	"gangway/evidence"
	"gangway/fleet"
	"gangway/tcg/join"
)

// Whatever is sent, a parser answers; what it takes, Verify can judge.
func FuzzParseRegistration(f *testing.F) {
	maker, err := fleet.NewMaker("good", fleet.MakerOptions{})
	if err != nil {
		f.Fatal(err)
	}
	d, err := fleet.New(maker, "H-2")
	if err != nil {
		f.Fatal(err)
	}
	token := &join.TokenFile{ID: join.NewID(), Owner: join.AccountPRN + join.NewID(), Token: "MDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1u"}
	body, err := d.Registration(token, join.StepKeys{}, fleet.RegistrationChange{})
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
		var in join.Registration
		if json.Unmarshal(b, &in) == nil {
			if r, err := evidence.ParseRegistration(&in); err == nil {
				evidence.Verify(new(evidence.Verdict), r, &evidence.Input{Trust: trust, Policy: evidence.DefaultPolicy()})
			}
		}
		var keys join.EnrollRequest
		if json.Unmarshal(b, &keys) == nil {
			if r, err := evidence.ParseKeys(&keys); err == nil {
				evidence.VerifyKeys(new(evidence.Verdict), r, &evidence.Input{Trust: trust, Policy: evidence.DefaultPolicy()})
			}
		}
	})
}
