// Package chain describes what the hub verified about a device, as a chain of five links from the
// TPM's maker to the device's connection. It verifies nothing itself: it reads the verdict that the
// hub stored, and reports a check that did not run as not examined. It does no I/O and reads no
// clock.
package chain

import (
	"crypto/x509"
	"slices"
	"time"

	"gangway/hub/clone"
	"gangway/hub/evidence"
	"gangway/hub/store"
)

// State is the outcome of a link or of a check.
type State string

// States, ordered from best to worst. NotExamined is outside this order: it means that nothing was
// checked.
const (
	Verified    State = "verified"
	Decided     State = "decided"      // a check failed, and a person accepted the failure
	NotExamined State = "not-examined" // there was nothing to check
	Waiting     State = "waiting"      // a person must decide
	Refused     State = "refused"
)

// Words returns the state in words.
func (s State) Words() string {
	switch s {
	case Decided:
		return "decided by a person"
	case NotExamined:
		return "not examined"
	case Waiting:
		return "waiting for you"
	}
	return string(s)
}

// Check is the result of one check, with the detail that an expert needs.
type Check struct {
	Code   string // stable, as in evidence.Check
	State  State
	Detail string // one sentence that gives the reason
}

// The names of the five links, in order.
const (
	Maker      = "maker"
	EK         = "ek"
	AIK        = "aik"
	IDevID     = "idevid"
	Connection = "connection"
)

// Link is one link of the chain.
type Link struct {
	Name     string
	Title    string
	State    State
	Sentence string // the result, for readers who do not know what a TPM is
	Exact    string // what the link proves, in the terms of the TCG, for experts
	Checks   []Check
}

// Picture describes a device's chain: its five links, with their states.
type Picture struct {
	Links []Link // Maker, EK, AIK, IDevID, Connection
	// Other has the checks that belong to no link: ownership, approval, and checks that this
	// version of the hub does not know.
	Other []Check
	Notes []string // deviations from standards that the hub tolerated
}

// Link returns the link with this name, or nil.
func (p *Picture) Link(name string) *Link {
	for i := range p.Links {
		if p.Links[i].Name == name {
			return &p.Links[i]
		}
	}
	return nil
}

// Count returns the number of links with the state `s`.
func (p *Picture) Count(s State) (n int) {
	for _, l := range p.Links {
		if l.State == s {
			n++
		}
	}
	return n
}

// Facts are the facts that the hub stored about a device's evidence.
type Facts struct {
	Device store.Device
	// Enrolment is the device's active enrolment, or nil if the device was registered without a
	// TPM.
	Enrolment *store.Enrolment
	Verdict   evidence.Verdict // the verdict on Enrolment
	// Root is the TPM maker's root at which the chain of the stored EK certificate ends today. It
	// is nil if the hub has no EK certificate, or trusts no root of its chain today.
	Root *x509.Certificate

	BootState   string    // one of the Boot constants of package store
	Measured    time.Time // time of the newest valid measurement; zero: there is no valid measurement
	BootRefusal *store.BootRefusal
	RequireBoot bool // the policy accepts a boot only if every part of it is expected or known

	Clone         string // one of the Clone constants of package store, or empty
	CloneFindings []CloneFinding
	CloneDecision clone.Decision
	CloneBy       string
	CloneDecided  time.Time
}

// CloneFinding is a sign that several machines run with this TPM's state.
type CloneFinding struct {
	Code, Words string
	Open        bool // no decision of the owner covers the finding
}

// checksOf has the codes of each link's checks. A link is Verified only if the checks with the
// first `must` codes passed; the other checks need not have run.
var checksOf = map[string]struct {
	codes []string
	must  int
}{
	Maker:  {[]string{"ek-chain", "ek-revocation"}, 1},
	EK:     {[]string{"ek-key", "ek-certificate", codeOpened, "ek-certificate-omitted", "hardware", "ek-list", "policy"}, 3},
	AIK:    {[]string{"iak", codeOpened}, 2},
	IDevID: {[]string{"certify", "idevid", "signature"}, 3},
}

// Codes of checks that are not part of the verdict, because they run after it.
const (
	codeOpened     = "credential" // also in the verdict of a two-step enrolment
	codeActivation = "activation"
	codeQuote      = "boot-quote"
	codeBoot       = "boot"
	codeClone      = "clone"
	codeRoot       = "root-today"
)

// Of returns the chain of the device that the facts describe.
func Of(f Facts) Picture {
	if f.Enrolment == nil {
		return withoutTPM(f)
	}
	r := reader{f: f, seen: map[string]bool{"ownership": true, "approval": true}}
	p := Picture{Notes: f.Verdict.Notes}
	for _, name := range []string{Maker, EK, AIK, IDevID} {
		p.Links = append(p.Links, r.link(name))
	}
	p.Links = append(p.Links, r.connection())
	for _, c := range f.Verdict.Checks {
		if !r.seen[c.Check] || c.Check == "ownership" || c.Check == "approval" {
			p.Other = append(p.Other, r.check(c))
		}
	}
	return p
}

// Checks returns all checks of a verdict, in the order of the verdict.
func Checks(v evidence.Verdict) []Check {
	r := reader{f: Facts{Verdict: v}}
	list := make([]Check, len(v.Checks))
	for i, c := range v.Checks {
		list[i] = r.check(c)
	}
	return list
}

// reader derives the links from the facts about a device that sent evidence.
type reader struct {
	f    Facts
	seen map[string]bool // codes of the verdict's checks that a link shows
}

// check converts a check of the verdict to a Check.
func (r *reader) check(c evidence.Check) Check {
	return Check{Code: c.Check, State: r.stateOf(c), Detail: c.Detail}
}

func (r *reader) stateOf(c evidence.Check) State {
	switch {
	case c.OK && c.Check == "approval":
		return Decided
	case c.OK:
		return Verified
	case c.Skipped:
		return NotExamined
	case !c.Ask:
		return Refused
	case r.f.Verdict.Accepted():
		return Decided
	}
	return Waiting
}

// checks returns the verdict's checks with these codes, in the order of `codes`. It marks the codes
// as seen, so that Picture.Other does not repeat these checks.
func (r *reader) checks(codes []string) (list []Check) {
	for _, code := range codes {
		r.seen[code] = true
		found := false
		for _, c := range r.f.Verdict.Checks {
			if c.Check == code {
				list, found = append(list, r.check(c)), true
			}
		}
		if code == codeOpened && !found {
			list = append(list, r.opened())
		}
	}
	return list
}

// opened returns the check that tells whether the TPM opened the credential, which the hub had
// encrypted to the TPM's EK and AIK. In one-step enrolment, a device can activate its certificates
// only after it has opened the credential, so an activated enrolment has passed this check.
func (r *reader) opened() Check {
	c := Check{Code: codeOpened, State: NotExamined, Detail: "The device has not activated its certificates yet."}
	if r.activated() {
		c.State, c.Detail = Verified, "The hub encrypted the reply to this EK and this AIK, and the TPM that has both keys opened it (TPM2_ActivateCredential)."
	}
	return c
}

func (r *reader) activated() bool {
	return r.f.Enrolment.State == store.Active || r.f.Enrolment.State == store.Superseded
}

// twoSteps reports whether the device used two-step enrolment (Pantacor's way).
func (r *reader) twoSteps() bool { return r.f.Verdict.Passed(codeOpened) }

// link returns the link with this name, which is Maker, EK, AIK or IDevID.
func (r *reader) link(name string) Link {
	rule := checksOf[name]
	l := Link{Name: name, Checks: r.checks(rule.codes)}
	l.State = stateOfLink(l.Checks, rule.codes[:rule.must])
	if name == Maker && l.State == Verified && r.f.Enrolment.EKKnown {
		today := r.rootToday()
		l.Checks = append(l.Checks, today)
		l.State = today.State
	}
	r.describe(&l)
	return l
}

// rootToday checks whether the stored EK certificate chains to a root that the hub trusts today.
func (r *reader) rootToday() Check {
	if r.f.Root == nil {
		return Check{codeRoot, Refused, "The stored EK certificate no longer chains to a root that this hub trusts: the operator has removed or distrusted a CA of the chain since the device enrolled."}
	}
	return Check{codeRoot, Verified, "The stored EK certificate still chains to a root that this hub trusts."}
}

// stateOfLink returns the worst state of the checks. A link is Verified only if the checks with the
// codes in `must` passed.
func stateOfLink(checks []Check, must []string) State {
	for _, worst := range []State{Refused, Waiting, Decided} {
		if slices.ContainsFunc(checks, func(c Check) bool { return c.State == worst }) {
			return worst
		}
	}
	for _, code := range must {
		if !slices.ContainsFunc(checks, func(c Check) bool { return c.Code == code && c.State == Verified }) {
			return NotExamined
		}
	}
	return Verified
}

// decision returns a sentence that says who answered the questions that the verdict left open: the
// EK list or a person.
func (r *reader) decision() string {
	for _, c := range r.f.Verdict.Checks {
		if c.Check == "approval" && c.OK {
			return c.Detail
		}
	}
	if r.f.Verdict.Passed("ek-list") {
		return "The TPM's EK is on your EK list, the list of expected TPMs."
	}
	return "A person accepted that."
}
