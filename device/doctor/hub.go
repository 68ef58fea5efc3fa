package doctor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"gangway/device/agent"
	"gangway/device/install/netfile"
	"gangway/wire"
)

func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// checkHub checks that the hub's name belongs to its CA, and connects to the hub, through the proxy
// if the machine uses one.
func checkHub(ctx context.Context, e *exam) []Finding {
	all := e.checkVariables()
	if e.hub == nil {
		return append(all, Finding{Code: "hub-unknown", Severity: Note, Fact: "The machine is not onboarded and does not know its hub.",
			Remedy: "Name a token file: gangway-agent doctor --token-file FILE. To onboard: gangway-agent run --token-file FILE."})
	}
	name, err := nameOf(e.hub.CA)
	if err != nil || name != e.hub.Name {
		return append(all, Finding{Code: "hub-ca", Severity: Problem, Fact: "The hub's CA certificate does not belong to the hub's name.",
			Cause: "The state folder or the token file was changed.", Remedy: "Get the token file again, and run gangway-agent onboard --again --token-file FILE."})
	}
	r, err := agent.Reach(ctx, e.urls, e.hub.CA, e.Proxy)
	if err != nil {
		return append(all, e.unreached(err))
	}
	e.reached = r
	if e.Proxy != nil {
		all = append(all, good("proxy", "The proxy %s connects to the hub.", netfile.Mask(e.Proxy.URL)))
	}
	return append(all, good("hub", "The hub %s answers at %s in %d ms.", r.HubName, printable(r.URL), r.Took.Milliseconds()))
}

// nameOf returns the name of the hub with this CA: the SHA-256 of the root's key.
func nameOf(ca string) (string, error) {
	roots, err := (&wire.TokenFile{HubCA: ca}).Roots()
	if err != nil {
		return "", err
	}
	if len(roots) == 0 {
		return "", errors.New("no certificate")
	}
	sum := sha256.Sum256(roots[0].RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:]), nil
}

// checkVariables returns a note if an environment variable names a proxy but the agent is not
// configured to use one, because the agent ignores such variables.
func (e *exam) checkVariables() []Finding {
	if e.Proxy != nil {
		return nil
	}
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"} {
		if e.getenv(name) != "" {
			return []Finding{{Code: "proxy-variable", Severity: Note, Fact: "The variable " + name + " is set, but the agent does not use it.",
				Cause: "The agent ignores proxies in the environment, so that a variable cannot redirect the device.", Remedy: "If the hub is behind that proxy: --proxy \"$" + name + "\"."}}
		}
	}
	return nil
}

// remedies are the remedies for the obstacles between the machine and the hub.
var remedies = map[agent.Obstacle]string{
	agent.ObstacleProxy:       "Correct the proxy: --proxy, --proxy-ca, or the network settings. Allow CONNECT to the hub's port at the proxy.",
	agent.ObstacleIntercepted: "Exempt the hub from TLS inspection at the proxy.",
	agent.ObstacleOtherServer: "Check the address. If the hub has a new CA, or another hub replaced it, onboard again: gangway-agent onboard --again --token-file FILE.",
	agent.ObstacleServerName:  "Use an address that is in the hub's certificate, or start the hub with this address: gangway serve --url.",
	agent.ObstacleExpired:     "Check this machine's clock first. If the clock is correct, restart the hub, which renews its certificate.",
	agent.ObstacleDNS:         "Check the hub's name and the name servers.",
	agent.ObstacleNoAnswer:    "Check that the hub runs, that the hub's address is correct, and that no firewall drops the connection.",
	agent.ObstacleNotReady:    "Look at the hub's log: gangway serve.",
}

func (e *exam) unreached(err error) Finding {
	f := Finding{Code: "hub-unreached", Severity: Problem, Fact: "The hub at " + printable(strings.Join(e.urls, ", ")) + " cannot be reached.", Cause: err.Error(), Remedy: remedies[agent.ObstacleNoAnswer]}
	if u := (*agent.Unreached)(nil); errors.As(err, &u) {
		f.Code, f.Remedy = "hub-"+string(u.Obstacle), remedies[u.Obstacle]
	}
	f.Cause = printable(f.Cause)
	return f
}

// checkDevice asks the hub, with the device's key, whether it accepts the device. It also checks
// when the agent sent its last report.
func checkDevice(ctx context.Context, e *exam) []Finding {
	s := e.state
	switch {
	case s.Phase == agent.PhaseRemoved:
		return []Finding{{Code: "device-removed", Severity: Problem, Fact: "The hub no longer accepts this device (" + printable(s.Removed) + ").", Cause: printable(s.Waiting),
			Remedy: "To onboard the device again: gangway-agent onboard --again --token-file FILE."}}
	case !e.onboarded() && s.Waiting != "":
		return []Finding{{Code: "device-waiting", Severity: Warning, Fact: "The machine is not onboarded yet.", Cause: printable(s.Waiting),
			Remedy: "Do what the agent's message above asks for; gangway-agent status shows the message too."}}
	case !e.onboarded():
		return []Finding{{Code: "device-none", Severity: Note, Fact: "The machine is not onboarded.", Remedy: "gangway-agent run --token-file FILE"}}
	}
	if e.reached == nil {
		return nil // the finding about the hub gives the reason
	}
	answer, err := agent.Ask(ctx, agent.Config{TPM: e.TPM, StateDir: e.StateDir, EndorsementAuth: e.EndorsementAuth, Proxy: e.Proxy})
	if err != nil {
		return []Finding{{Code: "device-key", Severity: Problem, Fact: "The device's key cannot be used.", Cause: printable(err.Error()),
			Remedy: "Correct the problems of the TPM first. If the state folder comes from another machine: gangway-agent onboard --again --token-file FILE."}}
	}
	if answer != agent.Accepted {
		return []Finding{{Code: "device-refused", Severity: Problem, Fact: "The hub does not accept this device now.", Cause: printable(answer), Remedy: "To see the reason, run gangway device show NICK as the owner."}}
	}
	all := []Finding{good("device", "The hub accepts this device as %q.", printable(s.Nick))}
	if age := e.now().Sub(s.LastSeen); !s.LastSeen.IsZero() && age > silence {
		all = append(all, Finding{Code: "agent-silent", Severity: Warning, Fact: fmt.Sprintf("The agent has not reported for %s.", age.Round(time.Minute)),
			Cause: "The command 'gangway-agent run' is not running, or cannot reach the hub.", Remedy: "Start it: systemctl start gangway-agent, or gangway-agent run."})
	}
	return all
}
