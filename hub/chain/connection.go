package chain

import (
	"fmt"
	"time"

	"gangway/hub/clone"
	"gangway/hub/store"
)

const day = "2 January 2006"

// connection returns the last of the five links. It says whether the device at the other end of a
// connection has the IDevID key, whether only one machine uses the TPM's state, and whether the
// device's newest boot matches what the owner accepts.
func (r *reader) connection() Link {
	l := Link{Name: Connection, Checks: []Check{r.activation()}}
	if !r.f.Measured.IsZero() {
		l.Checks = append(l.Checks, Check{codeQuote, Verified, "On " + r.f.Measured.UTC().Format(time.DateTime) + " UTC the device sent a TPM quote, signed by the AIK over the hub's nonce, on a TLS connection that it made with the IDevID key."})
	}
	l.State = NotExamined
	for _, c := range l.Checks {
		if c.State == Verified {
			l.State = Verified
		}
	}
	for _, c := range []Check{r.boot(), r.clone()} {
		l.Checks = append(l.Checks, c)
		if worse(c.State, l.State) {
			l.State = c.State
		}
	}
	r.describe(&l)
	return l
}

// worse reports whether the state `a` is worse than the state `than`. Refused is the worst state,
// then Waiting, then Decided. NotExamined and Verified are not worse than any state.
func worse(a, than State) bool {
	rank := map[State]int{Decided: 1, Waiting: 2, Refused: 3}
	return rank[a] > rank[than]
}

// activation returns the check that says whether the device has activated its certificates on a TLS
// connection.
func (r *reader) activation() Check {
	switch {
	case r.twoSteps():
		return Check{codeActivation, NotExamined, "The device registered in two steps, which need no TLS connection with its IDevID key."}
	case !r.activated():
		return Check{codeActivation, NotExamined, "The device has not activated its certificates yet."}
	}
	return Check{codeActivation, Verified, "On " + r.f.Device.Activated.UTC().Format(time.DateTime) + " UTC the device made a TLS 1.3 connection with the IDevID key, and proved for this connection that its TPM had opened the reply."}
}

// boot returns the check that says whether the device's newest boot measurement matches.
func (r *reader) boot() Check {
	c := Check{Code: codeBoot, State: Waiting}
	if r.f.RequireBoot {
		c.State = Refused
	}
	switch r.f.BootState {
	case store.BootMatches:
		c.State, c.Detail = Verified, "Every part of the newest boot is expected or known."
	case store.BootChanged:
		c.Detail = "At least one part of the newest boot has changed: it is neither expected nor known."
	case store.BootRefused:
		c.Detail = "The hub refused the newest boot measurement."
		if r.f.BootRefusal != nil {
			c.Detail = r.f.BootRefusal.Reason + " (" + r.f.BootRefusal.Code + ")"
		}
	default:
		c.Detail = "The boot was never measured."
		if r.f.BootState == store.BootNothing {
			c.Detail = "The firmware measured nothing into the TPM, so the boot cannot be judged."
		}
		if !r.f.RequireBoot {
			c.State = NotExamined
		}
	}
	if c.State == Refused {
		c.Detail += " Your policy requires a measured boot that matches, so the hub refuses the device's requests."
	}
	return c
}

// clone returns the check that says whether only one machine has the TPM's state.
func (r *reader) clone() Check {
	c := Check{Code: codeClone}
	for _, f := range r.f.CloneFindings {
		c.Detail += f.Words + " "
	}
	by := r.f.CloneBy + " decided on " + r.f.CloneDecided.UTC().Format(day) + " that "
	switch {
	case r.f.Clone == store.CloneRefused:
		c.State, c.Detail = Refused, c.Detail+by+"several machines run with this TPM's state. The hub refuses them."
	case r.f.Clone != "":
		c.State, c.Detail = Waiting, c.Detail+"Several machines may run with this TPM's state."
	case r.f.CloneDecision == clone.OneMachine && len(r.f.CloneFindings) > 0:
		c.State, c.Detail = Decided, c.Detail+by+"it is one machine."
	case r.f.Measured.IsZero() && r.twoSteps():
		c.State, c.Detail = NotExamined, "The TPM has never attested its counters, so the hub cannot detect a copy of the TPM's state."
	default:
		c.State, c.Detail = Verified, "The counters that the TPM attested show no sign of a second machine with the same TPM state."
	}
	return c
}

// withoutTPM returns the picture of a device that was registered without evidence.
func withoutTPM(f Facts) Picture {
	none := "The device was registered without a TPM, so there was nothing to examine."
	var p Picture
	for _, name := range []string{Maker, EK, AIK, IDevID} {
		p.Links = append(p.Links, Link{Name: name, Title: titles[name], State: NotExamined, Sentence: none, Exact: exact[name]})
	}
	how := "It was registered with join token " + f.Device.TokenID + "."
	if f.Device.TokenID == "" {
		how = "A person claimed it with the code that the device displayed."
	}
	p.Links = append(p.Links, Link{Name: Connection, Title: titles[Connection], State: NotExamined,
		Sentence: "The device signs in with its own password. The hub cannot verify which machine has the password. " + how,
		Exact:    "The device has no certificate. When the device signs in, the hub compares the SHA-256 of the device's secret with the stored SHA-256.",
		Checks:   []Check{{codeActivation, NotExamined, "The device has no IDevID key to prove on a connection."}}})
	return p
}

func lastSeen(d store.Device) string {
	if d.LastSeen.IsZero() {
		return ""
	}
	return fmt.Sprintf(" The hub last heard from the device on %s UTC, from the address %s.", d.LastSeen.UTC().Format("2 January 2006, 15:04:05"), d.LastSeenAddr)
}
