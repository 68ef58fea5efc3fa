package system

import "time"

// LiveState is the folder of the agent's state on a system without a disk. It is in memory.
const LiveState = "/run/gangway-agent"

// liveToken is the path of the join token file on a system without a disk.
const liveToken = "/etc/gangway/device_autojointoken.json"

// Live runs the agent on a machine without a disk. The agent's state is in memory, so the machine
// onboards again at every boot, always as the same device, because its TPM always makes the same
// keys. If `poweroff` is "onboarded", Live returns after the onboarding; if it is any other word,
// Live returns when the agent ends; and if it is empty, Live never returns.
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
			logf("starting the agent failed: %v", err)
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
