package system

import (
	"gangway/device/machine"
	"gangway/device/network"
	"gangway/device/screen"
	"time"
)

const (
	agentPath = "/bin/gangway-agent"
	tokenPath = "/etc/gangway/device_autojointoken.json"
	stateDir  = "/run/gangway-agent"

	// exitRefused is the agent's when the hub refuses for good.
	exitRefused = 3
	// pause is how long to wait before the agent is started again.
	pause = 10 * time.Second
)

// Live runs the agent until the machine is to be switched off.
func Live(poweroff string) {
	for {
		code, err := machine.Run(agentPath, "onboard", "--set-clock", "--network-file", network.AgentPath, "--token-file", tokenPath, "--state", stateDir)
		if err == nil && code == 0 {
			screen.Say("onboarded")
			if poweroff == "onboarded" {
				return
			}
			code, err = machine.Run(agentPath, "run", "--set-clock", "--network-file", network.AgentPath, "--state", stateDir)
		}
		switch {
		case err != nil:
			screen.Say("the agent cannot be run: %v", err)
		default:
			screen.Say("the agent ended with code %d", code)
		}
		if poweroff != "" {
			return
		}
		if code == exitRefused { // a person has to change something first
			time.Sleep(time.Hour)
		}
		time.Sleep(pause)
	}
}
