package system

import "time"

// offerClaim shows the claim code for as long as the agent waits for an owner. It also shows
// anything else that the agent waits for. It returns when stop is closed.
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

// showWaiting shows the whole text about what the agent waits for, because the
// remedy is at its end. The agent has written it to the other consoles itself.
func (s *System) showWaiting(what string) {
	if what == "" {
		s.Screen.Statusf("Joining the hub")
		return
	}
	s.Screen.RedrawWhole(true, what)
}

// showClaim shows the address at which a person claims the machine, as a QR code
// if it fits; an empty address removes it.
func (s *System) showClaim(address, words string) {
	err := s.Screen.ShowCode(address)
	switch {
	case address == "":
		s.Screen.Statusf("Joining the hub")
	case err != nil:
		s.Screen.Logf("%v", err)
		s.Screen.Statusf("This machine has no owner yet. Open\n%s\nand compare %s", address, words)
	default:
		s.Screen.Statusf("This machine has no owner yet. Scan the code, and compare\n%s", words)
		s.Screen.Serialf("claim: %s compare %s", address, words)
	}
}
