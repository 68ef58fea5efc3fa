package chain_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"strings"
	"testing"
	"time"

	"gangway/hub/chain"
	"gangway/hub/clone"
	"gangway/hub/evidence"
	"gangway/hub/store"
)

var at = time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC)

// whole returns the verdict on a device with a TPM maker's certificate: every check that can run
// has passed. The function `change` may alter the verdict.
func whole(change func(*evidence.Verdict)) evidence.Verdict {
	var v evidence.Verdict
	v.Pass("ownership", "This owner's join token x signed the name of this IDevID key, for this hub.")
	for _, code := range []string{"ek-certificate", "ek-chain", "ek-key", "iak", "idevid", "certify", "signature", "hardware"} {
		v.Pass(code, "The check "+code+" passed.")
	}
	v.Skip("ek-list", "Neither the hub nor the owner has an EK list.")
	v.Skip("policy", "No policy has rules.")
	if change != nil {
		change(&v)
	}
	return v
}

// set replaces the verdict's check that has the same code as `c`, or appends `c` if there is none.
func set(v *evidence.Verdict, c evidence.Check) {
	for i := range v.Checks {
		if v.Checks[i].Check == c.Check {
			v.Checks[i] = c
			return
		}
	}
	v.Checks = append(v.Checks, c)
}

func asked(code string) evidence.Check {
	return evidence.Check{Check: code, Ask: true, Detail: "The question " + code + "."}
}

func skipped(code string) evidence.Check {
	return evidence.Check{Check: code, Skipped: true, Detail: "Nothing to examine in " + code + "."}
}

// device returns the facts about a device that used one-step enrolment.
func device(v evidence.Verdict, change func(*chain.Facts)) chain.Facts {
	f := chain.Facts{
		Device:    store.Device{TokenID: "1234", Activated: at, LastSeen: at.Add(time.Hour), LastSeenAddr: "192.0.2.7"},
		Enrolment: &store.Enrolment{State: store.Active, EKCertificate: []byte{1}, EKKnown: true, Manufacturer: "IFX", Model: "SLB9672"},
		Verdict:   v,
		Root:      &x509.Certificate{Subject: pkix.Name{CommonName: "Infineon OPTIGA Root"}},
		BootState: store.BootUnmeasured,
	}
	if change != nil {
		change(&f)
	}
	return f
}

// Each kind of verdict gives the right states of the five links of the trust chain. In the field
// `want`, each letter is the state of one link: V verified, D decided by a person, - not examined,
// W waiting, R refused.
func TestPictureOfEachVerdict(t *testing.T) {
	t.Parallel()
	approve := func(v *evidence.Verdict) {
		v.Pass("approval", "ada approved this EK on 2026-11-03.")
	}
	for _, c := range []struct {
		name  string
		facts chain.Facts
		want  string
		link  string // the name of a link; its Sentence must contain `words`
		words string
	}{
		{"a hardware TPM of a trusted maker", device(whole(nil), nil), "VVVVV", chain.Maker, "vouches for this chip: Infineon OPTIGA Root."},
		{"a software TPM that the policy allows", device(whole(nil), func(f *chain.Facts) { f.Enrolment.Manufacturer, f.Enrolment.Model = "id:00001014", "swtpm" }), "VVVVV", chain.Maker, "not hardware"},
		{"a CA that the operator has distrusted since", device(whole(nil), func(f *chain.Facts) { f.Root = nil }), "RVVVV", chain.Maker, "no longer trusts"},
		{"a chain that an older hub did not store", device(whole(nil), func(f *chain.Facts) { f.Root, f.Enrolment.EKKnown = nil, false }), "VVVVV", chain.Maker, "a TPM maker"},
		{"no EK certificate, approved", device(whole(func(v *evidence.Verdict) {
			set(v, asked("ek-certificate"))
			set(v, skipped("ek-chain"))
			set(v, skipped("hardware"))
			approve(v)
		}), func(f *chain.Facts) { f.Root, f.Enrolment.EKKnown, f.Enrolment.EKCertificate = nil, false, nil }), "-DVVV", chain.EK, "ada approved this EK on 2026-11-03."},
		{"an unknown maker, approved", device(whole(func(v *evidence.Verdict) {
			set(v, asked("ek-chain"))
			approve(v)
		}), func(f *chain.Facts) { f.Root, f.Enrolment.EKKnown = nil, false }), "DVVVV", chain.Maker, "ada approved"},
		{"an unknown maker, and the EK on the owner's list", device(whole(func(v *evidence.Verdict) {
			set(v, asked("ek-chain"))
			set(v, evidence.Check{Check: "ek-list", OK: true, Detail: "The EK is on the EK list."})
		}), func(f *chain.Facts) { f.Root, f.Enrolment.EKKnown = nil, false }), "DVVVV", chain.Maker, "EK list"},
		{"an EK that is not on the list, approved", device(whole(func(v *evidence.Verdict) {
			set(v, asked("ek-list"))
			approve(v)
		}), nil), "VDVVV", chain.EK, "ada approved"},
		{"a kind of EK that the maker does not certify, approved", device(whole(func(v *evidence.Verdict) {
			set(v, asked("hardware"))
			approve(v)
		}), nil), "VDVVV", "", ""},
		{"a certificate that was left out, approved", device(whole(func(v *evidence.Verdict) {
			set(v, asked("ek-certificate"))
			set(v, skipped("ek-chain"))
			set(v, asked("ek-certificate-omitted"))
			approve(v)
		}), func(f *chain.Facts) { f.Root, f.Enrolment.EKKnown, f.Enrolment.EKCertificate = nil, false, nil }), "-DVVV", "", ""},
		{"no revocation list", device(whole(func(v *evidence.Verdict) { set(v, skipped("ek-revocation")) }), nil), "VVVVV", "", ""},
		{"an open question", device(whole(func(v *evidence.Verdict) {
			set(v, asked("ek-chain"))
			v.Questions = []*evidence.Refusal{{Code: "ek-chain-untrusted", Ask: true}}
		}), func(f *chain.Facts) { f.Root, f.Enrolment.EKKnown, f.Enrolment.State = nil, false, store.Pending }), "W--V-", chain.Maker, "You must decide"},
		{"a refusal", device(evidence.Verdict{
			Checks:  []evidence.Check{{Check: "ek-certificate", OK: true}, {Check: "ek-chain", OK: true}, {Check: "ek-key", Detail: "Another TPM's."}},
			Refusal: &evidence.Refusal{Code: "ek-key-mismatch"},
		}, func(f *chain.Facts) { f.Enrolment.State = store.Revoked }), "VR---", chain.IDevID, "did not examine"},
		{"two steps, never measured", device(whole(func(v *evidence.Verdict) { v.Pass("credential", "Opened.") }), nil), "VVVV-", chain.Connection, "has not recorded"},
		{"two steps, measured", device(whole(func(v *evidence.Verdict) { v.Pass("credential", "Opened.") }), func(f *chain.Facts) {
			f.Measured, f.BootState = at, store.BootMatches
		}), "VVVVV", "", ""},
		{"a changed boot", device(whole(nil), func(f *chain.Facts) { f.Measured, f.BootState = at, store.BootChanged }), "VVVVW", chain.Connection, "its newest boot has changed"},
		{"a changed boot that the policy refuses", device(whole(nil), func(f *chain.Facts) {
			f.Measured, f.BootState, f.RequireBoot = at, store.BootChanged, true
		}), "VVVVR", chain.Connection, "refuses its requests"},
		{"a boot that the policy wants measured", device(whole(nil), func(f *chain.Facts) { f.RequireBoot = true }), "VVVVR", "", ""},
		{"firmware that measures nothing", device(whole(nil), func(f *chain.Facts) { f.Measured, f.BootState = at, store.BootNothing }), "VVVVV", "", ""},
		{"a refused measurement", device(whole(nil), func(f *chain.Facts) {
			f.BootState, f.BootRefusal = store.BootRefused, &store.BootRefusal{Code: "boot-nonce", Reason: "Old nonce."}
		}), "VVVVW", chain.Connection, "refused its newest boot measurement"},
		{"a suspected copy", device(whole(nil), func(f *chain.Facts) {
			f.Clone, f.Device.Clone, f.CloneFindings = "suspected", "suspected", []chain.CloneFinding{{Code: "serial", Words: "Two serials.", Open: true}}
		}), "VVVVW", chain.Connection, "you must decide"},
		{"a copy that the owner refused", device(whole(nil), func(f *chain.Facts) {
			f.Clone, f.Device.Clone, f.CloneDecision, f.CloneBy = "refused", "refused", clone.TwoMachines, "ada"
		}), "VVVVR", chain.Connection, "Several machines"},
		{"a finding that the owner explained", device(whole(nil), func(f *chain.Facts) {
			f.CloneDecision, f.CloneBy, f.CloneFindings = clone.OneMachine, "ada", []chain.CloneFinding{{Code: "serial", Words: "Two serials."}}
		}), "VVVVD", chain.Connection, "ada decided that it is one machine"},
		{"no TPM, with a token", chain.Facts{Device: store.Device{TokenID: "1234"}}, "-----", chain.Connection, "join token 1234"},
		{"no TPM, claimed", chain.Facts{}, "-----", chain.Connection, "A person claimed it"},
		{"a verdict without checks", device(evidence.Verdict{}, nil), "----V", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := chain.Of(c.facts)
			letters := map[chain.State]string{chain.Verified: "V", chain.Decided: "D", chain.NotExamined: "-", chain.Waiting: "W", chain.Refused: "R"}
			got := ""
			for _, l := range p.Links {
				got += letters[l.State]
				if l.Title == "" || !strings.HasSuffix(strings.TrimSpace(l.Sentence), ".") || l.Exact == "" {
					t.Errorf("%s: %+v lacks words", l.Name, l)
				}
			}
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if c.link != "" && !strings.Contains(p.Link(c.link).Sentence, c.words) {
				t.Errorf("%s: %q lacks %q", c.link, p.Link(c.link).Sentence, c.words)
			}
		})
	}
}

// If the verdict has no checks and the device is not activated, no link is verified.
func TestNothingIsVerifiedWithoutACheck(t *testing.T) {
	t.Parallel()
	f := device(evidence.Verdict{}, func(f *chain.Facts) { f.Enrolment.State = store.Pending })
	p := chain.Of(f)
	if n := p.Count(chain.Verified); n != 0 {
		t.Errorf("%d links are verified: %+v", n, p.Links)
	}
}

// Anyone may send a TPM's public EK and EK certificate. So before the TPM has opened the
// credential, neither the EK nor the AIK is verified.
func TestEKIsNotVerifiedBeforeItOpenedTheCredential(t *testing.T) {
	t.Parallel()
	p := chain.Of(device(whole(nil), func(f *chain.Facts) { f.Enrolment.State = store.Pending }))
	for _, l := range p.Links {
		if (l.Name == chain.EK || l.Name == chain.AIK) && l.State != chain.NotExamined {
			t.Errorf("%s is %v: %s", l.Name, l.State, l.Sentence)
		}
		if l.Name == chain.EK && l.Sentence != "No chip has proved yet that it has this endorsement key." {
			t.Errorf("the EK's words: %s", l.Sentence)
		}
	}
}

// The picture shows every check of the verdict, even a check that this version of the hub does not
// know.
func TestEveryCheckIsShown(t *testing.T) {
	t.Parallel()
	v := whole(func(v *evidence.Verdict) { v.Pass("of-the-future", "New.") })
	p := chain.Of(device(v, nil))
	shown := map[string]bool{}
	for _, l := range p.Links {
		for _, c := range l.Checks {
			shown[c.Code] = true
		}
	}
	for _, c := range p.Other {
		shown[c.Code] = true
	}
	for _, c := range v.Checks {
		if !shown[c.Check] {
			t.Errorf("the picture lacks the check %s", c.Check)
		}
	}
}
