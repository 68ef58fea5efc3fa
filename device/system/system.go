// Package system runs a machine on which Gangway is installed, or a machine that runs without a
// disk (Live).
//
// An installed system mounts its disk, connects to the network, and runs the agent, which onboards
// the machine and keeps it connected. A new system, or new network settings, are on trial at first.
// If the machine does not reach the hub in time, it restarts with the previous system or the
// previous settings. To change the system or the network settings, the agent calls Hook.
//
// System makes the decisions and shows messages to the person at the machine. It uses the machine
// through small interfaces, which Local implements.
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

// Time limits.
const (
	// TrialTime is the time in which the agent must make a new system permanent. If the agent runs,
	// it does not need this limit: it rolls the new system back itself after 10 minutes without the
	// hub. The limit is for a new system on which the agent does not run.
	TrialTime = 20 * time.Minute
	// NetworkTime is the time in which the machine must reach the hub with new network
	// settings.
	NetworkTime = 10 * time.Minute
)

const (
	diskWait = 30 * time.Second
	// refusedWait is the pause after a refusal. This pause is long, because a person must correct
	// the cause before a retry can succeed.
	refusedWait = time.Hour
	// agentPause is the pause before the agent is started again.
	agentPause = 10 * time.Second
	poll       = 500 * time.Millisecond
	// keysPoll is the interval at which watchKeys reads the keys of Secure Boot.
	keysPoll = 10 * time.Second
)

// exitRefused is the agent's exit code for a permanent refusal by the hub.
const exitRefused = 3

// System runs an installed system. Local returns the System of this machine.
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
		// Ask returns the next line that a person types at one of the terminals. It calls `show`,
		// which shows the question on the screen, when it is ready to get the line.
		Ask(prompt string, show func()) string
	}
	Watchdog func() // sends keepalives; does not return
	Restart  func() // does not return
	// Wipe wipes the installed system whose EFI system partition has the GUID espGUID, and
	// switches the machine off. It does not return.
	Wipe   func(espGUID string)
	BootID func() (string, error)

	// TrialTime and NetworkTime have the values of the constants. Only tests set shorter times.
	TrialTime, NetworkTime time.Duration

	Paths Paths
}

// Paths has the folders and files of an installed system.
type Paths struct {
	Dev  string // device files
	ESP  string // mount point of the EFI system partition
	Data string // mount point of the data partition
	// Paths of files in memory. NetworkReport has the report on the network settings, and Escrow
	// the encrypted recovery key; the agent sends both files to the hub. Settings has the network
	// settings that the agent uses.
	NetworkReport, Escrow, Settings string
	// RevisionKey is the key file with the owner's keys. If the image has no such file, the device
	// installs revisions without a signature.
	RevisionKey string
}

// AgentState is the folder of the agent's state.
func (p Paths) AgentState() string { return filepath.Join(p.Data, "gangway-agent") }

// The method `changes` returns the store in which the machine keeps its network settings.
func (p Paths) changes() *netchange.Store {
	return &netchange.Store{Dir: filepath.Join(p.Data, "gangway-network")}
}

// Screen shows messages to the person at the machine (package screen).
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
	// Check returns an error if the machine cannot use the TPM. The error's text is a sentence
	// for the person at the machine.
	Check() error
	// LiftLockout lifts a lockout of the TPM, and logs this.
	LiftLockout()
}

// Firmware is the boot configuration, which the machine's firmware stores
// (install.Firmware).
type Firmware interface {
	BootedFrom() (espGUID string, err error)
	Counted() (string, error)
	// SecureBootKeys returns a text that changes when the keys of Secure Boot change.
	SecureBootKeys() string
}

// Disks are the machine's disks.
type Disks interface {
	// Find returns the installed system whose EFI system partition has the GUID espGUID. If
	// the disk has not appeared yet, the error is fs.ErrNotExist.
	Find(espGUID string) (*install.Installed, error)
	MountESP(*install.Installed) error
	// Unlock returns the device from which the data partition's clear data can be read. If the disk
	// has a PIN, Unlock calls `ask`, which returns what the person at the machine types: the PIN or
	// the recovery key. `why` is empty, or says what was wrong with the last answer.
	Unlock(i *install.Installed, ask func(why string) string) (device string, encrypted bool, err error)
	// ClearTPM clears the TPM before a wipe if the disk has a PIN for which the TPM's lockout
	// hierarchy got a password. Without that password, the wipe itself cannot clear the TPM.
	ClearTPM(*install.Installed) error
	// BindKey binds the disk's key to those systems in the slots that the owner signed. `changed`
	// is false if the key was bound to these systems already. BindKey returns an error if it could
	// not bind the key. It also returns an error, and changes nothing, if the system in the slot
	// `needed` would no longer be able to open the disk.
	BindKey(i *install.Installed, needed slots.Slot) (changed bool, err error)
	MountData(device string) error
	// Grow makes the data partition's file system as large as its device. It returns the new size
	// in bytes, or 0 if the file system already had that size.
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
	if err != nil { // if a new system lacks the driver of the disk, the restart starts the previous system
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

// The method `find` finds the disk from which the machine was started. It waits for the disk at
// most the time `patience`.
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
			return nil, errors.New("The disk that the machine was started from was not found.\nThe image may lack the driver of the disk.") //lint:ignore ST1005 shown to a person
		}
	}
}

// The method `mount` mounts the partitions of the system's disk.
func (s *System) mount(i *install.Installed) error {
	if err := s.Disks.MountESP(i); err != nil {
		return err
	}
	if exists(filepath.Join(s.Paths.ESP, install.WipePath)) { // check this before the system reads the disk's key into memory
		if err := s.Disks.ClearTPM(i); err != nil {
			s.Screen.Logf("%v", err)
		}
		s.Wipe(i.ESPGUID)
	}
	asked := false
	device, encrypted, err := s.Disks.Unlock(i, func(why string) string {
		asked = true
		return s.askPIN(why)
	})
	if err != nil {
		return fmt.Errorf("The data partition cannot be unlocked:\n%w", err) //lint:ignore ST1005 shown to a person
	}
	if asked {
		s.Screen.Statusf("The disk is unlocked.")
	}
	if encrypted {
		if !asked {
			s.Screen.Logf("the disk's key came from the TPM")
		}
		s.bindKey(i)
		go s.watchKeys(i)
	}
	if err := s.Disks.MountData(device); err != nil {
		return fmt.Errorf("The data partition cannot be mounted: %w\nInstall again from a stick: the machine stays the same device.", err) //lint:ignore ST1005 shown to a person
	}
	if err := keepEscrow(filepath.Join(s.Paths.Dev, i.Data()), s.Paths.Escrow); err != nil {
		s.Screen.Logf("%v", err)
	}
	go func() { // in the background, because growing takes long on a large disk
		switch size, err := s.Disks.Grow(device); {
		case err != nil:
			s.Screen.Logf("growing the data partition: %v", err)
		case size > 0:
			s.Screen.Logf("data partition: %d MiB", size>>20)
		}
	}()
	return nil
}

// askPIN asks the person at the machine for the disk's PIN or recovery key.
func (s *System) askPIN(why string) string {
	text := "The disk is locked.\nType its PIN, or its recovery key, and press Enter. The screen does not show what you type."
	if why != "" {
		text = why + "\n" + text
	}
	return s.Terminals.Ask("PIN or recovery key of the disk: ", func() { s.Screen.Alarmf("%s", text) })
}

// bindKey binds the disk's key to the systems in the slots. While the machine runs a slot other
// than the default, it may still return to the default slot's system. If the owner did not sign
// that system, it could not open the disk once the key was bound, so bindKey does not change the
// disk until the running slot is the default.
func (s *System) bindKey(i *install.Installed) {
	running, kept, _, err := s.Slots.Trial()
	if err != nil {
		s.Screen.Logf("the disk's key is not bound now: %v", err)
		return
	}
	needed := slots.None
	if running != kept {
		needed = kept
	}
	if changed, err := s.Disks.BindKey(i, needed); err != nil {
		s.Screen.Logf("%v", err)
	} else if changed {
		s.Screen.Logf("the disk's key is bound to the owner's systems")
	}
}

// watchKeys binds the disk's key again after a program has changed the keys of Secure Boot, because
// the firmware measures these keys at the next start. It also does so after another slot has become
// the default, because bindKey may have waited for this.
func (s *System) watchKeys(i *install.Installed) {
	keys := s.Firmware.SecureBootKeys()
	kept, _ := s.Slots.Default()
	for ; ; time.Sleep(keysPoll) {
		nowKeys := s.Firmware.SecureBootKeys()
		nowKept, err := s.Slots.Default()
		if err != nil {
			nowKept = kept
		}
		if nowKeys == keys && nowKept == kept {
			continue
		}
		if nowKeys != keys {
			s.Screen.Logf("the keys of Secure Boot have changed")
		}
		keys, kept = nowKeys, nowKept
		s.bindKey(i)
	}
}

// keepEscrow writes the encrypted recovery key to a file for the agent, if the partition's LUKS2
// header contains such a key.
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

// judgeSlot shows which slot runs. If the slot is on trial and the agent does not make the slot's
// system permanent in time, judgeSlot restarts the machine, which then starts the previous system.
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
		s.Screen.Fact("System", fmt.Sprintf("slot %s, on trial; slot %s is the default", running, kept))
		go func() {
			time.Sleep(s.TrialTime)
			if kept, err := s.Slots.Default(); err == nil && kept == running {
				return
			}
			s.Screen.Alarmf("The new system was not made permanent within %s.\nStarting the previous one.", s.TrialTime)
			s.Restart()
		}()
	}
}

// serve onboards the machine if it is not onboarded yet, and then runs the agent, which keeps the
// machine connected. It returns when the agent ends.
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
		"--install-report", filepath.Join(s.Paths.ESP, install.ReportPath), "--first-revision", filepath.Join(s.Paths.Data, install.FirstPath))
	if exists(s.Paths.RevisionKey) {
		run = append(run, "--revision-key", s.Paths.RevisionKey)
	}
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

// The method `onboard` runs the agent until the agent ends, and reports whether the machine is
// onboarded. After a refusal, onboard waits before it returns.
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
		s.Screen.Alarmf("The hub refuses this machine. The owner sees the reason on the hub.")
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

// agentStatus has the fields of the agent's state.json that this package reads.
type agentStatus struct {
	Phase      string    `json:"phase"`
	DeviceID   string    `json:"device-id"`
	Nick       string    `json:"nick"`
	OwnerNick  string    `json:"owner-nick"`
	Hub        string    `json:"hub"`
	Claim      string    `json:"claim"`       // address of the hub's claim page
	ClaimWords string    `json:"claim-words"` // letters to compare with those on the claim page
	Waiting    string    `json:"waiting"`     // the reason why the agent waits
	LastReport time.Time `json:"last-report"`
}

// The constant `removed` is the phase of a device that the hub no longer accepts.
const removed = "removed"

// The method `onboarded` reports whether the machine has a device's identity. The hub may have
// removed the device since then.
func (a agentStatus) onboarded() bool { return a.Phase == "active" || a.Phase == removed }

// The method `status` returns the agent's state. If the agent has no state, it returns the zero
// value.
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

// showDevice shows the machine's hub, owner and name, until `stop` is closed. If the hub no longer
// accepts the device, showDevice shows the reason instead.
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
				s.Screen.Alarmf("%s\nTo give the machine to another owner, wipe it with a stick.\nTo connect it to the hub again, install it again.", a.Waiting)
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

// removeTokenOnceReported removes the join token after the hub has accepted a report. Until then,
// the agent may not have read the token file yet.
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

// removeToken overwrites and removes the join token. An onboarded machine does not need the token,
// and a thief of the disk could onboard other devices with it.
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

// syncFolder makes the kernel write all data of a folder's file system to the disk.
func syncFolder(dir string) {
	if d, err := os.Open(dir); err == nil {
		unix.Syncfs(int(d.Fd()))
		d.Close()
	}
}

// markGood marks the boot entry as good after the hub has accepted a report. The boot manager then
// no longer counts the entry's boot attempts.
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
		return // an earlier call in this boot marked the entry
	}
	if err != nil {
		s.Screen.Logf("this boot's entry cannot be marked as good: %v", err)
		return
	}
	syncFolder(s.Paths.ESP)
	s.Screen.Logf("this boot is good: %s", path.Base(good))
}
