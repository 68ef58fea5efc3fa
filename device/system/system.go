// Package system runs a machine on which Gangway is installed, or a machine that runs without a
// disk (Live).
//
// An installed system mounts its disk, connects to the network, and runs the agent, which onboards
// the machine and keeps it connected. A new system, or new network settings, are on trial at first:
// unless the hub is reached in time, the machine restarts with the former ones. The agent calls
// Hook to change either of them.
//
// A System decides, and talks to the person in front of the machine. The machine
// itself is behind small interfaces; Local implements them.
package system

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"gangway/device/install"
	"gangway/device/install/escrow"
	"gangway/device/install/luks"
	"gangway/device/install/netchange"
	"gangway/device/install/netfile"
	"gangway/device/install/slots"

	"golang.org/x/sys/unix"
)

// Bounds for a trial.
const (
	// TrialTime is how long a new system may take until the agent makes it
	// permanent. The agent itself gives up after 10 minutes without the hub; this
	// bound is for an agent that does not get that far.
	TrialTime = 20 * time.Minute
	// NetworkTime is how long new network settings may take until the hub is
	// reached with them.
	NetworkTime = 10 * time.Minute
)

const (
	diskWait = 30 * time.Second
	// refusedWait is how long to wait after a refusal: a person must change
	// something first.
	refusedWait = time.Hour
	// agentPause is how long to wait before the agent is started again.
	agentPause = 10 * time.Second
	poll       = 500 * time.Millisecond
)

// exitRefused is the agent's exit code for a refusal that it does not retry.
const exitRefused = 3

// System is an installed system.
type System struct {
	Screen    Screen
	TPM       TPM
	Firmware  Firmware
	Disks     Disks
	Network   Network
	Agent     Agent
	Slots     Slots
	Terminals interface {
		Start()
		Mounted()
	}
	Watchdog func() // sends keepalives; does not return
	Restart  func() // does not return
	// Wipe wipes the system with this EFI system partition, and switches the machine off. It does not
	// return.
	Wipe   func(espGUID string)
	BootID func() (string, error)

	// TrialTime and NetworkTime are the constants, unless a test shortens them.
	TrialTime, NetworkTime time.Duration

	Paths Paths
}

// Paths holds the folders and files of an installed system.
type Paths struct {
	Dev  string // device files
	ESP  string // where the EFI system partition is mounted
	Data string // where the data partition is mounted
	// Files in memory: the report on the network settings and the encrypted recovery key, which the
	// agent sends, and the network settings, which the agent uses.
	NetworkReport, Escrow, Settings string
}

// AgentState is the folder of the agent's state.
func (p Paths) AgentState() string { return filepath.Join(p.Data, "gangway-agent") }

// changes returns the store in which the machine keeps its network settings.
func (p Paths) changes() *netchange.Store {
	return &netchange.Store{Dir: filepath.Join(p.Data, "gangway-network")}
}

// Screen shows what happens to the person in front of the machine (package
// screen).
type Screen interface {
	StartPanel(title string)
	Logf(format string, args ...any)
	Serialf(format string, args ...any)
	Statusf(format string, args ...any)
	Alarmf(format string, args ...any)
	RedrawWhole(alarm bool, text string)
	Fact(name, value string)
	ShowCode(address string) error
}

// TPM is the machine's TPM.
type TPM interface {
	// Check returns an error if something is wrong with the TPM. The error's text is a sentence for
	// the person.
	Check() error
	// LiftLockout lifts a lockout, and logs that.
	LiftLockout()
}

// Firmware is the boot configuration, which the machine's firmware stores
// (install.Firmware).
type Firmware interface {
	BootedFrom() (espGUID string, err error)
	Counted() (string, error)
}

// Disks are the machine's disks.
type Disks interface {
	// Find returns the system of an EFI system partition. The error fs.ErrNotExist means that the
	// disk has not appeared yet.
	Find(espGUID string) (*install.Installed, error)
	MountESP(*install.Installed) error
	// Unlock returns the device with the clear data of the data partition.
	Unlock(*install.Installed) (device string, encrypted bool, err error)
	MountData(device string) error
	// Grow makes the data partition's file system as large as its device, and returns the size in
	// bytes; 0: it already has that size.
	Grow(device string) (int64, error)
}

// Network connects the machine (package network).
type Network interface {
	Up(*netfile.Settings)
}

// Agent runs gangway-agent, and returns its exit code.
type Agent interface {
	Run(args ...string) (code int, err error)
}

// Slots are the machine's two systems (package slots).
type Slots interface {
	Trial() (running, kept slots.Slot, tried bool, err error)
	Default() (slots.Slot, error)
}

// Run runs the system. It does not return.
func (s *System) Run() {
	s.Screen.StartPanel("Gangway")
	go s.Watchdog()
	s.Terminals.Start()
	if err := s.TPM.Check(); err != nil {
		s.Screen.Alarmf("%v", err)
	} else {
		s.TPM.LiftLockout()
	}
	i, err := s.find(diskWait)
	if err == nil {
		err = s.mount(i)
	}
	if err != nil { // if a new system lacks the disk's driver, the restart starts the former system
		s.Screen.Alarmf("%v", err)
		time.Sleep(s.TrialTime)
		s.Restart()
	}
	s.Terminals.Mounted()
	before := s.status().LastReport
	s.judgeSlot()
	settings, tried := s.networkSettings()
	if tried {
		go s.judgeNetwork(before)
	}
	s.Network.Up(settings)
	go s.markGood(before)
	for {
		s.serve()
		time.Sleep(agentPause)
	}
}

// find finds the disk that the machine was started from.
func (s *System) find(patience time.Duration) (*install.Installed, error) {
	guid, err := s.Firmware.BootedFrom()
	if err != nil {
		return nil, err
	}
	for until := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		i, err := s.Disks.Find(guid)
		if err == nil {
			return i, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if time.Now().After(until) {
			return nil, errors.New("The disk that this was started from cannot be found.\nThe image may lack its driver.") //lint:ignore ST1005 shown to a person
		}
	}
}

// mount mounts the partitions of the disk.
func (s *System) mount(i *install.Installed) error {
	if err := s.Disks.MountESP(i); err != nil {
		return err
	}
	if exists(filepath.Join(s.Paths.ESP, install.WipePath)) { // before the disk's key is in memory
		s.Wipe(i.ESPGUID)
	}
	device, encrypted, err := s.Disks.Unlock(i)
	if err != nil {
		return fmt.Errorf("The data partition does not open:\n%w", err) //lint:ignore ST1005 shown to a person
	}
	if encrypted {
		s.Screen.Logf("the disk's key came from the TPM")
	}
	if err := s.Disks.MountData(device); err != nil {
		return fmt.Errorf("The data partition cannot be mounted: %w\nInstall again from a stick: the machine stays the same device.", err) //lint:ignore ST1005 shown to a person
	}
	if err := keepEscrow(filepath.Join(s.Paths.Dev, i.Data()), s.Paths.Escrow); err != nil {
		s.Screen.Logf("%v", err)
	}
	go func() { // a large disk takes a while
		switch size, err := s.Disks.Grow(device); {
		case err != nil:
			s.Screen.Logf("growing the data partition: %v", err)
		case size > 0:
			s.Screen.Logf("data partition: %d MiB", size>>20)
		}
	}()
	return nil
}

// keepEscrow writes the encrypted recovery key, if the partition's LUKS2 header
// has one, to a file for the agent.
func keepEscrow(partition, file string) error {
	f, err := os.Open(partition)
	if err != nil {
		return nil
	}
	defer f.Close()
	token, err := luks.Token(f, escrow.TokenType)
	if err != nil {
		return nil // the disk is not encrypted, or its recovery key is not stored
	}
	text, err := escrow.Ciphertext(token)
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(text), 0o600)
}

// judgeSlot shows which slot runs. If that slot is on trial and is not made permanent in time, it
// restarts the machine, which then starts the former system.
func (s *System) judgeSlot() {
	running, kept, tried, err := s.Slots.Trial()
	switch {
	case err != nil:
		s.Screen.Logf("%v", err)
	case !tried && running != kept:
		s.Screen.Fact("System", fmt.Sprintf("slot %s, because slot %s does not start", running, kept))
	case !tried:
		s.Screen.Fact("System", "slot "+running.String())
	default:
		s.Screen.Fact("System", fmt.Sprintf("slot %s, which is tried; slot %s is kept", running, kept))
		go func() {
			time.Sleep(s.TrialTime)
			if kept, err := s.Slots.Default(); err == nil && kept == running {
				return
			}
			s.Screen.Alarmf("This new system was not made permanent within %s. Starting the former one.", s.TrialTime)
			s.Restart()
		}()
	}
}

// serve onboards the machine, unless it is onboarded, and keeps it connected until
// the agent ends.
func (s *System) serve() {
	token, hub := filepath.Join(s.Paths.ESP, install.TokenPath), filepath.Join(s.Paths.ESP, install.HubPath)
	args := []string{"--set-clock", "--network-file", s.Paths.Settings, "--state", s.Paths.AgentState()}
	first := !s.status().onboarded()
	if first {
		onboard := append([]string{"onboard"}, args...)
		switch {
		case exists(token):
			onboard = append(onboard, "--token-file", token)
		case exists(hub):
			onboard = append(onboard, "--hub-file", hub)
		}
		if !s.onboard(onboard) {
			return
		}
	}
	run := append([]string{"run"}, args...)
	run = append(run, "--hook", "/"+install.HookPath, "--user-meta-hook", "/"+install.HookPath,
		"--report-file", escrow.MetaKey+"="+s.Paths.Escrow, "--report-file", networkMeta+"="+s.Paths.NetworkReport,
		"--first-revision", filepath.Join(s.Paths.Data, install.FirstPath))
	stop := make(chan struct{})
	defer close(stop)
	switch {
	case first:
		s.removeToken(token)
	case exists(token): // a person copied the token file there: it may name a new address of the hub
		run = append(run, "--token-file", token)
		go s.removeTokenOnceReported(token, stop)
	}
	go s.showDevice(stop)
	if code, err := s.Agent.Run(run...); err != nil || code != 0 {
		s.Screen.Alarmf("The agent ended (code %d). Starting it again.", code)
	}
}

// onboard runs the agent until it has onboarded the machine, and reports whether it has. After a
// refusal, it waits before it returns.
func (s *System) onboard(args []string) bool {
	s.Screen.Statusf("Joining the hub")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		s.offerClaim(stop)
	}()
	code, err := s.Agent.Run(args...)
	close(stop)
	<-stopped
	switch {
	case err == nil && code == 0:
		s.Screen.Logf("onboarded")
		return true
	case code == exitRefused:
		s.Screen.Alarmf("The hub refuses this machine. Its owner can see the reason.")
		time.Sleep(refusedWait)
	default:
		s.Screen.Alarmf("Onboarding failed (code %d). Trying again.", code)
		s.TPM.LiftLockout()
	}
	return false
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// agentStatus is a part of the agent's state.json.
type agentStatus struct {
	Phase      string    `json:"phase"`
	DeviceID   string    `json:"device-id"`
	Nick       string    `json:"nick"`
	OwnerNick  string    `json:"owner-nick"`
	Hub        string    `json:"hub"`
	Claim      string    `json:"claim"`       // address of the hub's claim page
	ClaimWords string    `json:"claim-words"` // letters to compare with that page's
	Waiting    string    `json:"waiting"`     // what the agent waits for
	LastReport time.Time `json:"last-report"`
}

// removed is the phase of a device that the hub no longer admits.
const removed = "removed"

// onboarded reports whether the machine has a device's identity. The hub may no
// longer admit it.
func (a agentStatus) onboarded() bool { return a.Phase == "active" || a.Phase == removed }

// status returns the agent's state, empty if it has none.
func (s *System) status() agentStatus { return readStatus(s.Paths) }

func readStatus(p Paths) (s agentStatus) {
	b, err := os.ReadFile(filepath.Join(p.AgentState(), "state.json"))
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return agentStatus{}
	}
	return s
}

// showDevice shows the machine's owner, or why the hub no longer admits the device, until stop is
// closed. The reason stays on the screen, since a person must act.
func (s *System) showDevice(stop <-chan struct{}) {
	for last := ""; ; {
		a := s.status()
		text := a.Phase
		if a.Phase == removed {
			text = a.Waiting
		}
		if text != last {
			last = text
			if a.Phase == removed {
				s.Screen.Alarmf("%s\nTo give it to another owner, wipe it with a stick.\nTo bring it back, install it again.", a.Waiting)
			} else {
				s.Screen.Fact("Hub", a.Hub)
				s.Screen.Fact("Owner", a.OwnerNick)
				s.Screen.Fact("Device", a.Nick+" "+a.DeviceID)
				s.Screen.Statusf("This machine is onboarded.")
			}
		}
		select {
		case <-stop:
			return
		case <-time.After(time.Second):
		}
	}
}

// removeTokenOnceReported removes the join token once the hub has accepted a report: by then, the
// agent has read the file.
func (s *System) removeTokenOnceReported(token string, stop <-chan struct{}) {
	for before := s.status().LastReport; s.status().LastReport.Equal(before); {
		select {
		case <-stop:
			return
		case <-time.After(time.Second):
		}
	}
	s.removeToken(token)
}

// removeToken overwrites and removes the join token: an onboarded machine does not need the token,
// and a thief could onboard other devices with it.
func (s *System) removeToken(token string) {
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
		s.Screen.Logf("the join token cannot be removed from the disk: %v", err)
	}
	syncFolder(filepath.Dir(token))
}

// syncFolder makes the kernel write all data of the file system that holds a
// folder.
func syncFolder(dir string) {
	if d, err := os.Open(dir); err == nil {
		unix.Syncfs(int(d.Fd()))
		d.Close()
	}
}

// markGood marks the boot as good once the hub has accepted a report: the boot
// manager stops counting its attempts.
func (s *System) markGood(before time.Time) {
	for s.status().LastReport.Equal(before) {
		time.Sleep(poll)
	}
	s.Screen.Logf("the hub has accepted a report")
	counted, err := s.Firmware.Counted()
	if err != nil {
		s.Screen.Logf("%v", err)
		return
	}
	good, ok := install.Uncounted(counted)
	if !ok {
		return
	}
	err = os.Rename(filepath.Join(s.Paths.ESP, counted), filepath.Join(s.Paths.ESP, good))
	if errors.Is(err, fs.ErrNotExist) && exists(filepath.Join(s.Paths.ESP, good)) {
		return // marked earlier in this boot
	}
	if err != nil {
		s.Screen.Logf("this boot cannot be marked good: %v", err)
		return
	}
	syncFolder(s.Paths.ESP)
	s.Screen.Logf("this boot is good: %s", path.Base(good))
}
