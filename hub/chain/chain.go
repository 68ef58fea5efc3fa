// Package chain says what the hub verified between a TPM's maker and a device's connection, as five
// links. It judges nothing anew: it reads the stored verdict, and reports a check that did not run
// as not examined. It does no I/O and reads no clock.
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

// The states, from the best to the worst, except NotExamined, which says nothing.
const (
	Verified    State = "verified"
	Decided     State = "decided"      // a check failed, and a person accepted that
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

// Check is one check, for an expert.
type Check struct {
	Code   string // stable, as in evidence.Check
	State  State
	Detail string // the reason, a sentence
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
	Sentence string // the verdict, for somebody who never heard of a TPM
	Exact    string // what is verified by what, for somebody who did
	Checks   []Check
}

// Picture is the chain of a device.
type Picture struct {
	Links []Link // Maker, EK, AIK, IDevID, Connection
	// Other are checks of no link, such as those of an older hub.
	Other []Check
	Notes []string // tolerated deviations
}

// Link returns the link with a name, or nil.
func (p *Picture) Link(name string) *Link {
	for i := range p.Links {
		if p.Links[i].Name == name {
			return &p.Links[i]
		}
	}
	return nil
}

// Count returns how many links have a state.
func (p *Picture) Count(s State) (n int) {
	for _, l := range p.Links {
		if l.State == s {
			n++
		}
	}
	return n
}

// Facts are what the hub stored about a device's evidence.
type Facts struct {
	Device store.Device
	// Enrolment is the device's active enrolment; nil: the device was registered without a TPM.
	Enrolment *store.Enrolment
	Verdict   evidence.Verdict // of Enrolment
	// Root is the maker's root at which the chain of the stored EK certificate ends today. It is nil
	// if the chain ends at no root that the hub trusts today, or if there is no EK certificate.
	Root *x509.Certificate

	BootState   string    // of store's Boot constants
	Measured    time.Time // the newest valid measurement; zero: none
	BootRefusal *store.BootRefusal
	RequireBoot bool // the policy admits only boots that match

	Clone         string // as in store.Device
	CloneFindings []CloneFinding
	CloneDecision clone.Decision
	CloneBy       string
	CloneDecided  time.Time
}

// CloneFinding is a sign that several machines have the TPM's state.
type CloneFinding struct {
	Code, Words string
	Open        bool // no decision covers it
}

// checksOf lists the checks of each link, by their codes. The first ones, as many as the second
// value says, must pass for the link to be verified.
var checksOf = map[string]struct {
	codes []string
	must  int
}{
	Maker:  {[]string{"ek-chain", "ek-revocation"}, 1},
	EK:     {[]string{"ek-key", "ek-certificate", "ek-certificate-omitted", "hardware", "ek-list", "policy"}, 2},
	AIK:    {[]string{"iak", codeOpened}, 2},
	IDevID: {[]string{"certify", "idevid", "signature"}, 3},
}

// Codes of checks that are not part of the verdict, because they happen after it.
const (
	codeOpened     = "credential" // also in the verdict of a two-step enrolment
	codeActivation = "activation"
	codeQuote      = "boot-quote"
	codeBoot       = "boot"
	codeClone      = "clone"
	codeRoot       = "root-today"
)

// Of returns the picture of a device.
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

// Checks returns all checks of a verdict, in their order.
func Checks(v evidence.Verdict) []Check {
	r := reader{f: Facts{Verdict: v}}
	list := make([]Check, len(v.Checks))
	for i, c := range v.Checks {
		list[i] = r.check(c)
	}
	return list
}

// reader reads the facts of a device with evidence.
type reader struct {
	f    Facts
	seen map[string]bool // codes of the verdict's checks that a link shows
}

// check translates a check of the verdict.
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

// checks returns the checks with these codes, in the order of the codes.
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

// opened is the check that the TPM opened what the hub encrypted to its EK and AIK. In Gangway's own
// way it is the activation, which the hub records as the enrolment's state.
func (r *reader) opened() Check {
	c := Check{Code: codeOpened, State: NotExamined, Detail: "The device has not activated its certificates yet."}
	if r.activated() {
		c.State, c.Detail = Verified, "The TPM with this EK and this AIK opened the reply that was encrypted to both keys (TPM2_ActivateCredential)."
	}
	return c
}

func (r *reader) activated() bool {
	return r.f.Enrolment.State == store.Active || r.f.Enrolment.State == store.Superseded
}

// twoSteps reports whether the device came aboard in Pantacor's two steps.
func (r *reader) twoSteps() bool { return r.f.Verdict.Passed(codeOpened) }

// link returns one of the first four links.
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

// rootToday repeats the check of the chain with the roots that the hub trusts today, on the stored
// certificates.
func (r *reader) rootToday() Check {
	if r.f.Root == nil {
		return Check{codeRoot, Refused, "Today the stored EK certificate leads to no root that this hub trusts: the operator has removed or distrusted a CA of its chain since the device came aboard."}
	}
	return Check{codeRoot, Verified, "Today the stored EK certificate still leads to a root that this hub trusts."}
}

// stateOfLink returns the worst state of the checks. A link is Verified only if each code in must
// passed.
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

// decision returns who accepted the open questions of the verdict, as the end of a sentence.
func (r *reader) decision() string {
	for _, c := range r.f.Verdict.Checks {
		if c.Check == "approval" && c.OK {
			return c.Detail
		}
	}
	if r.f.Verdict.Passed("ek-list") {
		return "Its key is on your list of expected TPMs, the EK list."
	}
	return "A person accepted that."
}
