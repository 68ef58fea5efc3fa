package system

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"

	"gangway/device/install"
	"gangway/device/install/escrow"
	"gangway/device/install/luks"
	"gangway/device/machine"
	"gangway/device/network"
	"gangway/device/screen"

	"golang.org/x/sys/unix"
)

const (
	espDir     = "/run/esp"
	dataDir    = "/data"
	agentState = dataDir + "/gangway-agent"
	diskWait   = 30 * time.Second
)

// Run is the life of an installed machine. It does not return.
func Run() {
	screen.Show("Gangway")
	go machine.Watchdog()
	logins()
	if wrong := machine.HasTPM(); wrong != "" {
		screen.Alarm("%s", wrong)
	} else {
		machine.LiftLockout()
	}
	i, err := findSystem(diskWait)
	if err == nil {
		err = mountSystem(i)
	}
	if err != nil { // without its state it can do nothing; but a new system without the disk's driver falls back
		screen.Alarm("%v", err)
		time.Sleep(patience())
		machine.Restart()
	}
	before := lastReport()
	trial()
	settings, tried := settingsOfSystem()
	if tried {
		go judgeNetwork(before)
	}
	network.Up(settings)
	go blessed(before)
	for {
		aboard()
		time.Sleep(pause)
	}
}

// findSystem finds the disk that this was started from.
func findSystem(patience time.Duration) (*install.Installed, error) {
	guid, err := machine.Firmware.BootedFrom()
	if err != nil {
		return nil, err
	}
	for until := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		i, err := install.Find(machine.SysBlock, "/dev", guid)
		if err == nil && exists("/dev/"+i.Data()) {
			return i, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if time.Now().After(until) {
			return nil, errors.New("The disk that this was started from cannot be found.\nIs its driver's module there?") //lint:ignore ST1005 it is shown to a person
		}
	}
}

// mountSystem mounts what is on the disk and grows the data partition's file
// system to it.
func mountSystem(i *install.Installed) error {
	if err := machine.MountFAT(i.ESP(), espDir, unix.MS_SYNCHRONOUS); err != nil {
		return err
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return err
	}
	dev, err := machine.ClearDevice("/dev/" + i.Data())
	if err != nil {
		return fmt.Errorf("The data partition does not open:\n%w", err) //lint:ignore ST1005 it is shown to a person
	}
	if err := unix.Mount(dev, dataDir, "ext4", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_NOATIME, "errors=remount-ro"); err != nil {
		return fmt.Errorf("The data partition cannot be mounted: %w\nInstall anew from a stick: the machine stays the same device.", err) //lint:ignore ST1005 it is shown to a person
	}
	keepEscrow("/dev/" + i.Data())
	go func() { // of a large disk it takes a while
		if err := machine.Grow(dev, dataDir); err != nil {
			screen.Say("growing the data partition: %v", err)
		}
	}()
	return nil
}

// escrowFile is where the agent finds the encrypted recovery key, in memory.
const escrowFile = "/run/disk-recovery.age"

// keepEscrow takes the encrypted recovery key out of the disk's header, if
// there is one.
func keepEscrow(partition string) {
	f, err := os.Open(partition)
	if err != nil {
		return
	}
	defer f.Close()
	token, err := luks.Token(f, escrow.TokenType)
	if err != nil {
		return // the disk is not encrypted, or its key is not kept
	}
	text, err := escrow.Ciphertext(token)
	if err == nil {
		err = os.WriteFile(escrowFile, []byte(text), 0o600)
	}
	if err != nil {
		screen.Say("%v", err)
	}
}

// aboard onboards and stays connected, until the agent ends.
func aboard() {
	token := filepath.Join(espDir, install.TokenPath)
	args := []string{"--set-clock", "--network-file", network.AgentPath, "--state", agentState}
	hub := filepath.Join(espDir, install.HubPath)
	switch {
	case exists(token):
		args = append(args, "--token-file", token)
	case exists(hub):
		args = append(args, "--hub-file", hub)
	}
	onboarded := !wasAboard()
	if onboarded {
		screen.Now("Joining the hub")
		stop := make(chan struct{})
		var offered sync.WaitGroup
		offered.Go(func() { offerClaim(stop) })
		code, err := machine.Run(agentPath, append([]string{"onboard"}, args...)...)
		close(stop)
		offered.Wait()
		if err != nil || code != 0 {
			if code == exitRefused {
				screen.Alarm("The hub refuses this machine; its owner can see why.")
				time.Sleep(time.Hour)
				return
			}
			screen.Alarm("The machine is not aboard yet (code %d). Trying again.", code)
			machine.LiftLockout()
			return
		}
		screen.Say("onboarded")
	}
	args = []string{"run", "--set-clock", "--network-file", network.AgentPath, "--state", agentState, "--hook", "/" + install.HookPath, "--user-meta-hook", "/" + install.HookPath,
		"--report-file", escrow.MetaKey + "=" + escrowFile, "--report-file", networkMeta + "=" + networkReport, "--first-revision", filepath.Join(dataDir, install.FirstPath)}
	stop := make(chan struct{})
	defer close(stop)
	switch {
	case onboarded:
		forget(token)
	case exists(token): // somebody put it there: it may have the hub's new address
		args = append(args, "--token-file", token)
		go forgetOnceReported(token, stop)
	}
	go showAboard(stop)
	if code, err := machine.Run(agentPath, args...); err != nil || code != 0 {
		screen.Alarm("The agent ended (code %d). Starting it again.", code)
	}
}

// agentStatus is what is needed of the agent's state.json.
type agentStatus struct {
	Phase      string    `json:"phase"`
	DeviceID   string    `json:"device-id"`
	Nick       string    `json:"nick"`
	OwnerNick  string    `json:"owner-nick"`
	Hub        string    `json:"hub"`
	Claim      string    `json:"claim"`
	ClaimWords string    `json:"claim-words"`
	Waiting    string    `json:"waiting"`
	LastReport time.Time `json:"last-report"`
}

func status() (s agentStatus) {
	b, err := os.ReadFile(filepath.Join(agentState, "state.json"))
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return agentStatus{}
	}
	return s
}

func lastReport() time.Time { return status().LastReport }

// wasAboard reports whether the machine has a device's identity, which the hub
// may have ceased to let in.
func wasAboard() bool {
	phase := status().Phase
	return phase == "active" || phase == removed
}

const removed = "removed"

// showAboard shows whose device the machine is, or why the hub no longer lets it
// in. That a person must act stays on the screen until it is settled.
func showAboard(stop <-chan struct{}) {
	for last := ""; ; {
		s := status()
		text := s.Phase
		if s.Phase == removed {
			text = s.Waiting
		}
		if text != last {
			last = text
			if s.Phase == removed {
				screen.Alarm("%s\nTo give it to another owner, wipe it with a stick; to bring it back, install again.", s.Waiting)
			} else {
				showDevice()
			}
		}
		select {
		case <-stop:
			return
		case <-time.After(time.Second):
		}
	}
}

func showDevice() {
	s := status()
	screen.Note("Hub", s.Hub)
	screen.Note("Owner", s.OwnerNick)
	screen.Note("Device", s.Nick+" "+s.DeviceID)
	screen.Now("This machine is aboard.")
}

// forgetOnceReported removes the join token when the hub has taken a report: the
// agent has read the file by then.
func forgetOnceReported(token string, stop <-chan struct{}) {
	for before := lastReport(); lastReport().Equal(before); {
		select {
		case <-stop:
			return
		case <-time.After(time.Second):
		}
	}
	forget(token)
}

// forget removes the join token, which a machine that is aboard does not need
// and which would let others in.
func forget(token string) {
	f, err := os.OpenFile(token, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		var info fs.FileInfo
		if info, err = f.Stat(); err == nil {
			_, err = f.Write(make([]byte, info.Size()))
		}
		err = errors.Join(err, f.Sync(), f.Close(), os.Remove(token))
	}
	if err != nil {
		screen.Say("the join token cannot be removed from the disk: %v", err)
	}
	unix.Sync()
}

// blessed marks the boot good once the agent has reached the hub: the boot
// manager stops counting its attempts.
func blessed(before time.Time) {
	for lastReport().Equal(before) {
		time.Sleep(500 * time.Millisecond)
	}
	screen.Say("the hub has taken a report")
	counted, err := machine.Firmware.Counted()
	if err != nil {
		screen.Say("%v", err)
		return
	}
	good, ok := install.Uncounted(counted)
	if !ok {
		return
	}
	err = os.Rename(filepath.Join(espDir, counted), filepath.Join(espDir, good))
	if errors.Is(err, fs.ErrNotExist) && exists(filepath.Join(espDir, good)) {
		return // marked earlier in this boot
	}
	if err != nil {
		screen.Say("this boot cannot be marked good: %v", err)
		return
	}
	unix.Sync()
	screen.Say("this boot is good: %s", path.Base(good))
}
