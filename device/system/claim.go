package system

import "time"

// offerClaim shows the claim code while the agent waits for an owner. If the agent waits for
// something else, offerClaim shows the agent's text about that. It returns when `stop` is closed.
func (s *System) offerClaim(stop <-chan struct{}) {
	last, waiting := "", ""
	for {
		a := s.status()
		if a.Claim == "" && a.Waiting != waiting {
			waiting = a.Waiting
			s.showWaiting(waiting)
		}
		if a.Claim != last {
			last = a.Claim
			s.showClaim(a.Claim, a.ClaimWords)
		}
		select {
		case <-stop:
			if last != "" {
				s.showClaim("", "")
			}
			return
		case <-time.After(poll):
		}
	}
}

// showWaiting shows the agent's text about the event for which the agent waits. It shows the whole
// text, because the remedy is at the end of the text. The agent itself has written the text to the
// other consoles.
func (s *System) showWaiting(what string) {
	if what == "" {
		s.Screen.Statusf("Joining the hub")
		return
	}
	s.Screen.RedrawWhole(true, what)
}

// showClaim shows the URL at which a person claims the machine, as a QR code if the code fits on
// the screen. An empty `address` removes the code.
func (s *System) showClaim(address, words string) {
	err := s.Screen.ShowCode(address)
	switch {
	case address == "":
		s.Screen.Statusf("Joining the hub")
	case err != nil:
		s.Screen.Logf("%v", err)
		s.Screen.Statusf("This machine has no owner yet. Open\n%s\nand compare the letters %s", address, words)
	default:
		s.Screen.Statusf("This machine has no owner yet. Scan the code, and compare the letters\n%s", words)
		s.Screen.Serialf("claim: %s compare %s", address, words)
	}
}
