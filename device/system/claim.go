package system

import (
	"gangway/device/screen"
	"strings"
	"time"
)

// offerClaim shows the code by which a person takes this machine, for as long
// as the agent waits for one, and what else it waits for.
func offerClaim(stop <-chan struct{}) {
	last, waiting := "", ""
	for {
		s := status()
		if s.Claim == "" && s.Waiting != waiting {
			waiting = s.Waiting
			showWaiting(waiting)
		}
		if s.Claim != last {
			last = s.Claim
			screen.ShowCode(s.Claim, s.ClaimWords)
		}
		select {
		case <-stop:
			if last != "" {
				screen.ShowCode("", "")
			}
			return
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// showWaiting shows on the screen what the agent waits for: all of it, since what
// to do is at its end. On other consoles the agent has said it.
func showWaiting(what string) {
	if what == "" {
		screen.Now("Joining the hub")
		return
	}
	screen.Redraw(true, "%s", strings.Join(screen.Wrapped(what, screen.Width-8), "\n"))
}
