package evidence_test

import (
	"bytes"
	"testing"
	"time"

	"gangway/hub/evidence"
	"gangway/internal/fleet"
)

// By default, an EK is accepted if its maker is known to certify EKs of this kind. If it is of
// another kind, a person must decide.
func TestDefaultKindsOfAMaker(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for _, c := range []struct {
		maker, kind string
		asked       bool
	}{
		{"id:49465800", "L-2", false}, // IFX
		{"id:49465800", "H-3", false},
		{"id:49465800", "H-4", true}, // P-521
		{"id:53544D20", "H-2", false},
		{"id:53544D20", "H-4", true},
		{"id:46414B45", "H-4", false}, // a maker that is not in the list of known kinds
	} {
		d := must(fleet.New(s.maker, c.kind))(t)
		template := must(fleet.EKTemplate(d.EK.Private.Public()))(t)
		san := &template.ExtraExtensions[0]
		san.Value = bytes.Replace(san.Value, []byte("id:46414B45"), []byte(c.maker), 1)
		d.EKCert = must(s.maker.Sign(template, d.EK.Private.Public()))(t).Raw
		v := s.judge(s.request(t, d, fleet.RequestChange{}))
		if v.Refusal != nil || v.HasCode(evidence.CodeKind) != c.asked {
			t.Errorf("%s, %s: %+v, %+v", c.maker, c.kind, v.Refusal, v.Questions)
		}
		// If a policy allows the kind, the default does not apply.
		p := lab()
		p.EKKinds = []evidence.EKKinds{{Name: "the hub's policy", Of: map[string][]string{"*": {c.kind}}}}
		v = new(evidence.Verdict)
		r := must(evidence.Parse(s.request(t, d, fleet.RequestChange{})))(t)
		if evidence.Verify(v, r, &evidence.Input{Trust: s.trust, Policy: p, Now: time.Now()}); !v.Accepted() {
			t.Errorf("%s, %s, allowed: %+v, %+v", c.maker, c.kind, v.Refusal, v.Questions)
		}
	}
}
