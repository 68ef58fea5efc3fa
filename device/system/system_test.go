package system

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/device/install"
	"gangway/device/install/escrow"
	"gangway/device/install/luks"
	"gangway/device/install/netchange"
	"gangway/device/install/seal"
	"gangway/device/install/slots"
	"gangway/device/machine"
)

const (
	agentArgs = "--set-clock --network-file /network.txt --state /data/gangway-agent"
	runArgs   = "agent run " + agentArgs + " --hook /bin/gangway-hook --user-meta-hook /bin/gangway-hook" +
		" --report-file gangway.disk-recovery=/escrow.age --report-file gangway.network=/report.txt --install-report /esp/gangway/installed.json --first-revision /data/first-revision"
)

// The system mounts the disk before it starts the network, because the network settings are on the
// disk. It marks the boot as good after the hub has accepted a report.
func TestStepsOfAnInstalledSystem(t *testing.T) {
	inLab(t, func(l *lab) {
		l.counted = "EFI/Linux/gangway-a+2-1.efi"
		l.write("esp/"+l.counted, "system")
		l.run(time.Minute)
		l.want("panel Gangway", "terminals", "check the TPM", "lift the lockout", "find the disk", "mount the ESP", "unlock", "mount /dev/dm-0", "terminals: mounted",
			"fact System: slot a", "network with VLAN 0", "status Joining the hub", "agent onboard "+agentArgs+" --token-file /esp/"+install.TokenPath,
			"log onboarded", runArgs, "log the hub has accepted a report", "log this boot is good: gangway-a.efi")
		l.want("watchdog")
		l.want("grow /dev/dm-0", "log data partition: 3072 MiB")
		l.want("log onboarded", "fact Hub: https://hub.example", "fact Owner: ada", "fact Device: otter d1", "status This machine is onboarded.")
		l.never("restart", "alarm", "log the disk's key", runArgs+" --token-file", runArgs+" --revision-key")
		if got := l.files("esp/EFI/Linux"); !slices.Equal(got, []string{"gangway-a.efi"}) {
			t.Errorf("EFI/Linux has %q", got)
		}
		if got := l.files("esp/gangway"); len(got) != 0 {
			t.Errorf("the join token is still there: %q", got)
		}
	})
}

// A system whose image pins the owner's keys gives the key file to the agent.
func TestPinnedKeysReachTheAgent(t *testing.T) {
	inLab(t, func(l *lab) {
		l.write("revision-key.pem", "keys")
		l.run(time.Minute)
		l.want(runArgs + " --revision-key /revision-key.pem")
	})
}

// If the disk has a PIN, the machine asks for the PIN before it mounts the disk or uses the
// network.
func TestMachineAsksForThePIN(t *testing.T) {
	inLab(t, func(l *lab) {
		l.locked, l.pin = true, true
		l.run(time.Minute)
		l.want("terminals", "mount the ESP", "alarm The disk is locked.", "ask for the PIN", "unlock", "status The disk is unlocked.", "bind the key now", "mount /dev/dm-0", "network with VLAN 0")
		l.never("log the disk's key came from the TPM")
	})
}

// If a person has requested a wipe at the machine's console, the next start wipes the system
// before it reads the disk's key into memory.
func TestWipeRequestedAtTheConsole(t *testing.T) {
	inLab(t, func(l *lab) {
		l.write("esp/"+install.WipePath, "wipe\n")
		l.run(time.Minute)
		l.want("find the disk", "mount the ESP", "clear the TPM", "wipe esp-guid")
		l.never("unlock", "mount /dev/dm-0", "terminals: mounted", "agent")
	})
}

// A system that does not find its disk cannot work, so it restarts after a while. If a new system
// lacks the driver of the disk, the boot manager then starts the previous system.
func TestSystemWithoutItsDiskRestarts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(l *lab)
		says  string
	}{
		"no disk":             {func(l *lab) { l.there = time.Hour }, "alarm The disk that the machine was started from was not found.\nThe image may lack the driver of the disk."},
		"a disk that fails":   {func(l *lab) { l.failing["find the disk"] = errBroken }, "alarm it is broken"},
		"no boot entry":       {func(l *lab) { l.failing["booted from"] = fs.ErrNotExist }, "alarm file does not exist"},
		"no ESP":              {func(l *lab) { l.failing["mount the ESP"] = errBroken }, "alarm it is broken"},
		"another TPM":         {func(l *lab) { l.failing["unlock"] = seal.ErrNotReleased }, "alarm The data partition cannot be unlocked:\nthis TPM does not release the disk's key"},
		"a damaged partition": {func(l *lab) { l.failing["mount /dev/dm-0"] = errBroken }, "alarm The data partition cannot be mounted: it is broken\nInstall again from a stick"},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(l *lab) {
				c.spoil(l)
				l.run(time.Hour)
				l.want(c.says, "restart")
				l.never("agent", "network with", "trial", "terminals: mounted")
				if took := time.Since(l.began); took < TrialTime || took > TrialTime+diskWait+time.Second {
					t.Errorf("restarted after %s", took)
				}
			})
		})
	}
}

func TestSystemWaitsForItsDisk(t *testing.T) {
	inLab(t, func(l *lab) {
		l.there, l.locked = 29*time.Second, true
		l.run(time.Minute)
		l.want("find the disk", "log the disk's key came from the TPM", "bind the key now", "mount /dev/dm-0", "agent onboard")
	})
}

// After each change of the keys of Secure Boot, the system binds the disk's key again, once,
// because the firmware measures the new keys at the next start.
func TestSystemBindsTheDisksKeyWhenTheSecureBootKeysChange(t *testing.T) {
	inLab(t, func(l *lab) {
		l.locked = true
		go func() {
			time.Sleep(5 * time.Minute)
			l.mu.Lock()
			l.keys = "other keys"
			l.mu.Unlock()
		}()
		l.run(10 * time.Minute)
		l.want("bind the key now", "agent onboard", "log the keys of Secure Boot have changed", "bind the key now")
		if n := l.count("bind the key now"); n != 2 {
			l.t.Errorf("the key was bound %d times; want 2", n)
		}
	})
}

// The machine tries a new system, and the owner did not sign the former system. If the disk's key
// were bound now, and the trial failed, the former system could not open the disk. So, until the
// new system's slot is the default, BindKey must refuse to lock the former system out.
func TestTrialDoesNotLockOutThePreviousSystem(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]int{"on trial": 0, "made permanent": 1} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(l *lab) {
				l.locked = true
				l.running, l.kept, l.tried = slots.B, slots.A, true
				if after > 0 {
					time.AfterFunc(5*time.Minute, func() { l.mu.Lock(); defer l.mu.Unlock(); l.kept = slots.B })
				}
				l.run(10 * time.Minute)
				l.want("bind the key, also for slot a", "mount /dev/dm-0", "agent")
				if first, last := l.count("bind the key, also for slot a"), l.count("bind the key now"); first != 1 || last != after {
					t.Errorf("the key was bound %d times in the trial, and %d times after it; want 1 and %d", first, last, after)
				}
			})
		})
	}
}

// A machine without a TPM reports the missing TPM and continues to start, because the machine's
// agent shows the remedy.
func TestSystemWithoutATPMSaysSo(t *testing.T) {
	inLab(t, func(l *lab) {
		l.tpm = machine.ErrNoTPM
		l.failing["grow /dev/dm-0"] = errBroken // growing the file system fails, and the start continues
		l.run(time.Minute)
		l.want("alarm No TPM", "agent onboard")
		l.want("log growing the data partition: it is broken")
		l.never("lift the lockout")
	})
}

// If the agent does not make a new system permanent in time, the machine restarts with the previous
// system. A system that is permanent, or that is not on trial, continues to run.
func TestNewSystemIsGivenUpUnlessMadePermanent(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		running, kept slots.Slot
		tried         bool
		commit        time.Duration // time after which the agent makes the system permanent; 0: never
		err           error
		says          string
		restarts      bool
	}{
		"on trial":            {slots.B, slots.A, true, 0, nil, "fact System: slot b, on trial; slot a is the default", true},
		"made permanent":      {slots.B, slots.A, true, TrialTime - time.Second, nil, "fact System: slot b, on trial; slot a is the default", false},
		"not on trial":        {slots.B, slots.B, false, 0, nil, "fact System: slot b", false},
		"the other one fails": {slots.B, slots.A, false, 0, nil, "fact System: slot b, because slot a does not start", false},
		"unknown":             {slots.B, slots.A, true, 0, errBroken, "log it is broken", false},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(l *lab) {
				l.running, l.kept, l.tried = c.running, c.kept, c.tried
				l.failing["trial"] = c.err
				if c.commit > 0 {
					time.AfterFunc(c.commit, func() { l.mu.Lock(); defer l.mu.Unlock(); l.kept = c.running })
				}
				l.run(TrialTime + time.Minute)
				l.want(c.says)
				if c.restarts {
					l.want("alarm The new system was not made permanent within 20m0s.\nStarting the previous one.", "restart")
				}
				if l.did("restart") != c.restarts {
					t.Errorf("restarted: %v", !c.restarts)
				}
			})
		})
	}
}

// offer stores network settings that the next start tries.
func offer(l *lab, text string) {
	if _, err := l.paths().changes().Offer(netchange.Hub, text, true); err != nil {
		l.t.Fatal(err)
	}
}

// If the machine reaches the hub with new network settings, it keeps these settings. Otherwise it
// drops the new settings and restarts with the previous settings.
func TestNetworkSettingsOnTrial(t *testing.T) {
	t.Parallel()
	t.Run("the hub is reached", func(t *testing.T) {
		inLab(t, func(l *lab) {
			offer(l, "version = 1\nvlan = 7\n")
			l.run(NetworkTime + time.Minute)
			l.want("fact Network: new settings, on trial", "log the machine reached the hub with the new network settings and keeps them")
			l.want("network with VLAN 7")
			l.never("restart")
			if last, err := l.paths().changes().Last(); err != nil || last == nil || last.Result != netchange.Kept {
				t.Errorf("%+v, %v", last, err)
			}
			if b, err := os.ReadFile(l.paths().NetworkReport); err != nil || !strings.Contains(string(b), "vlan = 7\nlast change: settings from the hub were kept") {
				t.Errorf("the report: %s, %v", b, err)
			}
		})
	})
	t.Run("the hub is not reached", func(t *testing.T) {
		inLab(t, func(l *lab) {
			offer(l, "version = 1\nvlan = 7\n")
			l.agent = onboards
			l.status(agentStatus{Phase: "active", DeviceID: "d1", Waiting: "The proxy refuses."})
			l.run(NetworkTime + time.Minute)
			l.want("alarm The hub was not reached with the new network settings.\nRestarting with the previous settings.", "restart")
			if took := time.Since(l.began); took < NetworkTime || took > NetworkTime+time.Second {
				t.Errorf("restarted after %s", took)
			}
			last, err := l.paths().changes().Last()
			if err != nil || last == nil || last.Result != netchange.Dropped || last.Reason != "The hub was not reached within 10m0s. The agent said: The proxy refuses." {
				t.Errorf("%+v, %v", last, err)
			}
		})
	})
	t.Run("dropped ones are said at the next start", func(t *testing.T) {
		inLab(t, func(l *lab) {
			offer(l, "version = 1\nvlan = 7\n")
			if _, tried, err := l.paths().changes().Begin("boot-0"); !tried || err != nil {
				t.Fatal(tried, err)
			}
			l.run(time.Minute)
			l.want("log network settings from the hub (2000-01-01T00:00:00Z) were dropped: The machine restarted before", "network with VLAN 0")
		})
	})
}

// A machine accepts the same network settings of a stick only once. If the machine is onboarded,
// the stick's settings are on trial. If the machine has never reached the hub, it keeps the stick's
// settings at once.
func TestNetworkSettingsFromAStick(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		phase, text, says string
		vlan              int
	}{
		"a new machine":        {"", "version = 1\nvlan = 7\n", "network with VLAN 7", 7},
		"an onboarded machine": {"active", "version = 1\nvlan = 7\n", "fact Network: new settings, on trial", 7},
		"a removed device":     {removed, "version = 1\nvlan = 7\n", "fact Network: new settings, on trial", 7},
		"a mistake":            {"active", "version = 1\nvlan = 70000\n", "alarm The stick's network settings cannot be used:\n", 0},
		"nothing":              {"active", "# nothing\n", "network with VLAN 0", 0},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(l *lab) {
				l.status(agentStatus{Phase: c.phase})
				l.write("esp/"+install.NetworkPath, c.text)
				l.run(time.Second)
				l.want(c.says)
				l.want(fmt.Sprintf("network with VLAN %d", c.vlan))
				if tried := l.did("fact Network: new settings"); tried != (c.phase != "" && c.vlan > 0) {
					t.Errorf("tried: %v", tried)
				}
				if left, err := install.ReadPendingNetwork(l.paths().ESP); err != nil || !left.Empty() {
					t.Errorf("left on the ESP: %v, %v", left, err)
				}
			})
		})
	}
}

// The system passes the token file to the agent. If the machine has no token file, the system
// passes the hub file to the agent. On an onboarded machine, the system starts 'gangway-agent run'
// at once.
func TestAgentOfAMachine(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		phase string
		files []string
		want  []string
		never []string
		left  []string // files in the ESP's folder after a report
	}{
		"with a join token":        {"", []string{install.TokenPath}, []string{"agent onboard " + agentArgs + " --token-file /esp/" + install.TokenPath}, nil, nil},
		"without a join token":     {"", []string{install.HubPath}, []string{"agent onboard " + agentArgs + " --hub-file /esp/" + install.HubPath}, []string{"alarm"}, []string{"hub.json"}},
		"with both":                {"", []string{install.TokenPath, install.HubPath}, []string{"agent onboard " + agentArgs + " --token-file"}, nil, []string{"hub.json"}},
		"onboarded":                {"active", nil, []string{runArgs}, []string{"agent onboard", runArgs + " --token-file"}, nil},
		"onboarded, and a token":   {"active", []string{install.TokenPath}, []string{runArgs + " --token-file /esp/" + install.TokenPath}, []string{"agent onboard"}, nil},
		"removed":                  {removed, nil, []string{runArgs}, []string{"agent onboard", "status This machine is onboarded."}, nil},
		"enrolment is pending yet": {"pending", []string{install.TokenPath}, []string{"agent onboard"}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(l *lab) {
				if err := os.Remove(filepath.Join(l.dir, "esp", install.TokenPath)); err != nil {
					t.Fatal(err)
				}
				for _, f := range c.files {
					l.write("esp/"+f, "secret")
				}
				l.status(agentStatus{Phase: c.phase})
				l.run(3 * time.Second)
				l.wait(time.Minute)
				l.want(c.want...)
				l.never(c.never...)
				if got := l.files("esp/gangway"); !slices.Equal(got, c.left) {
					t.Errorf("left: %q", got)
				}
			})
		})
	}
}

// The system removes the join token as soon as the machine is onboarded, so it does not pass the
// token to the agent again.
func TestTokenIsRemovedAfterTheOnboarding(t *testing.T) {
	inLab(t, func(l *lab) {
		l.agent = onboards
		l.run(3 * time.Second)
		l.want("log onboarded", runArgs)
		l.never(runArgs + " --token-file")
		if got := l.files("esp/gangway"); len(got) != 0 {
			t.Errorf("the token is still there: %q", got)
		}
	})
}

// If a person copies a token file to an onboarded machine, the system keeps the file until the hub
// has accepted a report. Before that report, the agent may not have read the file yet.
func TestTokenStaysUntilAReport(t *testing.T) {
	inLab(t, func(l *lab) {
		l.status(agentStatus{Phase: "active"})
		l.agent = onboards
		l.run(time.Minute)
		if got := l.files("esp/gangway"); len(got) != 1 {
			t.Errorf("the token is gone before a report: %q", got)
		}
		l.report()
		l.wait(2 * time.Second)
		if got := l.files("esp/gangway"); len(got) != 0 {
			t.Errorf("the token is still there: %q", got)
		}
	})
}

// The system overwrites the join token before it removes the file, because the sectors of a
// removed file stay on the disk.
func TestJoinTokenIsOverwritten(t *testing.T) {
	inLab(t, func(l *lab) {
		token := filepath.Join(l.dir, "esp", install.TokenPath)
		if err := os.Link(token, filepath.Join(l.dir, "sectors")); err != nil {
			t.Fatal(err)
		}
		l.system().removeToken(token)
		b, err := os.ReadFile(filepath.Join(l.dir, "sectors"))
		if err != nil || strings.Trim(string(b), "\x00") != "" || len(b) != len(`{"secret":"s3cret"}`) || exists(token) {
			t.Errorf("%q, %v", b, err)
		}
		l.system().removeToken(token)
		l.never("log")
		if err := os.Mkdir(token, 0o700); err != nil {
			t.Fatal(err)
		}
		l.system().removeToken(token)
		l.want("log the join token cannot be removed from the disk: ")
	})
}

// After a failure, the system starts the agent again soon. After a refusal by the hub, the system
// waits an hour, because a person must first correct the cause.
func TestOnboardingIsRetried(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		code  int
		says  string
		after time.Duration
		lifts bool
	}{
		"a failure": {1, "alarm Onboarding failed (code 1). Trying again.", agentPause, true},
		"a refusal": {exitRefused, "alarm The hub refuses this machine. The owner sees the reason on the hub.", refusedWait + agentPause, false},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(l *lab) {
				l.agent = func(l *lab, command string, args []string) int {
					if command == "run" || time.Since(l.began) > time.Second {
						return connects(l, command, args)
					}
					return c.code
				}
				l.run(c.after - time.Second)
				l.want(c.says)
				l.never(c.says+"x", "agent run", "log onboarded")
				l.wait(10 * time.Second)
				l.want(c.says, "agent onboard", "log onboarded", "agent run")
				if got := l.did("alarm Onboarding failed", "lift the lockout"); got != c.lifts {
					t.Errorf("the lockout was lifted: %v", got)
				}
			})
		})
	}
	t.Run("an agent that ends", func(t *testing.T) {
		inLab(t, func(l *lab) {
			l.status(agentStatus{Phase: "active"})
			l.agent = func(l *lab, command string, args []string) int { return 9 }
			l.run(25 * time.Second)
			l.want("agent run", "alarm The agent ended (code 9). Starting it again.", "agent run", "alarm The agent ended", "agent run")
		})
	})
	t.Run("an agent that cannot run", func(t *testing.T) {
		inLab(t, func(l *lab) {
			l.failing["agent onboard "+agentArgs+" --token-file /esp/"+install.TokenPath] = errBroken
			l.run(25 * time.Second)
			l.want("alarm Onboarding failed (code -1). Trying again.", "agent onboard")
		})
	})
}

// While the machine has no owner, the screen shows the claim code, and the letters that a person
// compares with the letters on the hub's page. The screen shows both even if the agent also waits
// for another event.
func TestClaimCodeIsOffered(t *testing.T) {
	inLab(t, func(l *lab) {
		const address = "https://hub.example/claim/x"
		l.agent = func(l *lab, command string, args []string) int {
			if command == "run" {
				l.sleep(1000 * time.Hour)
			}
			l.status(agentStatus{Waiting: "The hub cannot be reached. Check the cable."})
			l.sleep(2 * time.Second)
			l.status(agentStatus{Claim: address, ClaimWords: "ABCD-EFGH-IJKL", Waiting: "an owner"})
			l.sleep(2 * time.Second)
			l.status(agentStatus{Claim: address + "2", ClaimWords: "MNOP-QRST-UVWX"})
			l.sleep(2*time.Second - poll/2) // the agent ends between two reads of its state file
			l.status(agentStatus{Phase: "active"})
			return 0
		}
		l.failing["code "+address+"2"] = errBroken
		l.run(time.Minute)
		l.want("status Joining the hub", "redraw true The hub cannot be reached. Check the cable.",
			"code "+address, "status This machine has no owner yet. Scan the code, and compare the letters\nABCD-EFGH-IJKL", "serial claim: "+address+" compare ABCD-EFGH-IJKL",
			"code "+address+"2", "log it is broken", "status This machine has no owner yet. Open\n"+address+"2\nand compare the letters MNOP-QRST-UVWX",
			"status Joining the hub", "log onboarded")
		l.want("code "+address+"2", "code ", "log onboarded")
		l.never("redraw true an owner")
	})
}

// If the owner has deleted the device, the machine's screen says so until a person onboards or
// wipes the machine.
func TestRemovedDeviceSaysWhy(t *testing.T) {
	inLab(t, func(l *lab) {
		l.status(agentStatus{Phase: "active", Nick: "otter"})
		l.agent = onboards
		l.run(time.Minute)
		l.want("status This machine is onboarded.")
		l.status(agentStatus{Phase: removed, Waiting: "The owner deleted this device."})
		l.wait(2 * time.Second)
		l.want("status This machine is onboarded.", "alarm The owner deleted this device.\nTo give the machine to another owner, wipe it with a stick.")
		l.status(agentStatus{Phase: "active", Nick: "otter"})
		l.wait(2 * time.Second)
		l.want("alarm The owner deleted", "status This machine is onboarded.")
	})
}

// The system marks a boot entry as good only if the boot manager counts the entry's attempts, and
// only after the hub has accepted a report.
func TestBootIsMarkedGood(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		counted, file string
		err           error
		left          string
		says          string
	}{
		"counted":          {"EFI/Linux/gangway-a+2-1.efi", "gangway-a+2-1.efi", nil, "gangway-a.efi", "log this boot is good: gangway-a.efi"},
		"marked before":    {"EFI/Linux/gangway-a+2-1.efi", "gangway-a.efi", nil, "gangway-a.efi", ""},
		"not counted":      {"", "gangway-a.efi", nil, "gangway-a.efi", ""},
		"neither is there": {"EFI/Linux/gangway-a+2-1.efi", "gangway-b.efi", nil, "gangway-b.efi", "log this boot's entry cannot be marked as good: "},
		"unknown":          {"", "gangway-a+2-1.efi", errBroken, "gangway-a+2-1.efi", "log it is broken"},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(l *lab) {
				l.counted, l.failing["counted"] = c.counted, c.err
				l.write("esp/EFI/Linux/"+c.file, "system")
				l.agent = onboards
				l.run(time.Minute)
				l.never("log the hub has accepted a report", "log this boot")
				if got := l.files("esp/EFI/Linux"); !slices.Equal(got, []string{c.file}) {
					t.Errorf("before a report: %q", got)
				}
				l.report()
				l.wait(time.Second)
				l.want("log the hub has accepted a report", c.says)
				if got := l.files("esp/EFI/Linux"); !slices.Equal(got, []string{c.left}) {
					t.Errorf("after a report: %q", got)
				}
				if l.did("log this boot") != strings.HasPrefix(c.says, "log this boot") {
					t.Errorf("logged: %q", l.log)
				}
			})
		})
	}
}

// The system copies the encrypted recovery key from the disk's header to a file for the agent.
func TestEscrowIsTakenFromTheDisk(t *testing.T) {
	t.Parallel()
	_, recipient, err := escrow.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	token, err := escrow.Token(recipient, "cccccccc-bbbbbbbb-dddddddd-eeeeeeee-ffffffff-gggggggg-hhhhhhhh-iiiiiiii")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, c := range map[string]struct {
		slots []luks.Slot
		kept  bool
	}{
		"stored":     {[]luks.Slot{{Passphrase: make([]byte, 32), Token: token}}, true},
		"not stored": {[]luks.Slot{{Passphrase: make([]byte, 32)}}, false},
	} {
		head, _, err := luks.Format(c.slots)
		if err != nil {
			t.Fatal(err)
		}
		partition, file := filepath.Join(dir, name), filepath.Join(dir, name+".age")
		if err := os.WriteFile(partition, head, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := keepEscrow(partition, file); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		b, err := os.ReadFile(file)
		if (err == nil) != c.kept || c.kept && !strings.HasPrefix(string(b), "-----BEGIN AGE ENCRYPTED FILE-----") {
			t.Errorf("%s: %.40q, %v", name, b, err)
		}
	}
	if err := keepEscrow(filepath.Join(dir, "gone"), filepath.Join(dir, "gone.age")); err != nil || exists(filepath.Join(dir, "gone.age")) {
		t.Errorf("without a partition: %v", err)
	}
}
