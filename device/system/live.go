package system

import "time"

// LiveState is the folder of the agent's state on a system without a disk, in memory.
const LiveState = "/run/gangway-agent"

// liveToken is the join token file of a system without a disk.
const liveToken = "/etc/gangway/device_autojointoken.json"

// Live runs the agent on a machine without a disk, whose state is in memory: the machine onboards
// again at every boot, and is always the same device, because its TPM has the same keys. poweroff
// says when Live returns: "onboarded", after the onboarding; any other word, when the agent ends;
// empty: never.
func Live(agent Agent, settings, poweroff string, logf func(format string, args ...any)) {
	for {
		args := []string{"--set-clock", "--network-file", settings, "--state", LiveState}
		code, err := agent.Run(append([]string{"onboard", "--token-file", liveToken}, args...)...)
		if err == nil && code == 0 {
			logf("onboarded")
			if poweroff == "onboarded" {
				return
			}
			code, err = agent.Run(append([]string{"run"}, args...)...)
		}
		if err != nil {
			logf("the agent cannot be run: %v", err)
		} else {
			logf("the agent ended with code %d", code)
		}
		if poweroff != "" {
			return
		}
		if code == exitRefused {
			time.Sleep(refusedWait)
		}
		time.Sleep(agentPause)
	}
}
