// Package doctor examines a machine: its TPM, the firmware's event log, clock, network, proxy, hub
// and the agent's state. Each check returns findings. A finding consists of a fact, its cause, and
// a remedy for the person at the machine.
//
// The checks are a table. To add a check:
//
//  1. Write a function that returns findings. Give each finding a unique code.
//  2. Add the function to the table.
//  3. Add a test with a fault that causes the finding.
package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"gangway/device/agent"
	"gangway/device/install"
	"gangway/device/preflight"
	"gangway/internal/finding"
)

// Finding is the result of one check. Severity says how serious a finding is. TPM has the
// properties that a TPM reports.
type (
	Finding  = finding.Finding
	Severity = finding.Severity
	TPM      = preflight.TPM
)

// The severities, from the least to the most severe.
const (
	OK      = finding.OK
	Note    = finding.Note
	Warning = finding.Warning
	Problem = finding.Problem
)

// Config describes the machine to examine, and the options of the examination.
type Config struct {
	TPM             string // address, see identity.Open
	EndorsementAuth []byte // password of the TPM's endorsement hierarchy; empty: none
	StateDir        string // the agent's state folder
	EventLog        string // file with the firmware's event log; empty: eventlog.Path
	Proxy           *agent.HTTPProxy
	// Hub is the hub that is expected for a machine that is not onboarded yet; nil if it is not
	// known. Hub is not used for an onboarded machine, because the agent's state names the hub.
	Hub *Hub

	// The following fields are for tests. By default, they refer to this machine.
	now      func() time.Time
	getenv   func(string) string
	proc     string // /proc
	resolv   string // /etc/resolv.conf
	firmware install.Firmware
	cards    func() ([]Card, error)
	free     func(dir string) (uint64, error) // bytes
}

// Hub is a hub as described by a token file or a hub file.
type Hub struct {
	URL, Name, CA string
}

// Limits of an examination.
const (
	checkTime  = 25 * time.Second // of one check
	clockSlack = 2 * time.Minute  // maximum difference between the clock and the hub's clock
	silence    = 15 * time.Minute // maximum age of the last report
	minFree    = 64 << 20         // minimum free space on the disk of the state folder, in bytes
)

// exam is one examination of the machine. It stores results of earlier checks that later checks
// need.
type exam struct {
	Config
	state    *agent.State // never nil
	stateErr error
	hub      *Hub // nil: unknown
	urls     []string
	reached  *agent.Reached
}

// check is a row of the table.
type check struct {
	name string
	run  func(context.Context, *exam) []Finding
}

// checks are in the order in which a person should correct the problems: each check comes after the
// checks on which it depends.
var checks = []check{
	{"tpm", checkTPM},
	{"event-log", checkEventLog},
	{"firmware", checkFirmware},
	{"state", checkState},
	{"network", checkNetwork},
	{"hub", checkHub},
	{"clock", checkClock},
	{"device", checkDevice},
}

// Examine runs all checks. It changes nothing on the machine.
func Examine(ctx context.Context, cfg Config) []Finding {
	e := newExam(cfg)
	var all []Finding
	for _, c := range checks {
		ctx, cancel := context.WithTimeout(ctx, checkTime)
		all = append(all, c.run(ctx, e)...)
		cancel()
	}
	if e.reached != nil {
		excuse(all)
	}
	return all
}

// excuse turns findings about the network and the name servers into notes. It is called if the
// machine has reached the hub, because such findings then do not matter. For example, the hub may
// run on the same machine.
func excuse(all []Finding) {
	for i, f := range all {
		if f.Severity != OK && (strings.HasPrefix(f.Code, "network-") || strings.HasPrefix(f.Code, "dns-")) {
			all[i].Severity, all[i].Cause, all[i].Remedy = Note, "The machine reached the hub, so this finding does not matter now.", ""
		}
	}
}

func newExam(cfg Config) *exam {
	cfg.setDefaults()
	e := &exam{Config: cfg}
	e.state, e.stateErr = agent.ReadState(cfg.StateDir)
	if e.state == nil {
		e.state = &agent.State{}
	}
	e.hub = cfg.Hub
	if s := e.state; s.HubCA != "" {
		e.hub = &Hub{URL: s.Hub, Name: s.HubName, CA: s.HubCA}
	}
	if e.hub != nil {
		e.urls = []string{e.hub.URL}
		if a := e.state.Addresses; a != nil && a.HubName == e.hub.Name && len(a.URLs) > 0 {
			e.urls = a.URLs
		}
	}
	return e
}

// The method `onboarded` reports whether the machine has a device's identity.
func (e *exam) onboarded() bool {
	return e.state.Phase == agent.PhaseActive || e.state.Phase == agent.PhaseRemoved
}

// Worst returns the worst severity of the findings.
func Worst(findings []Finding) Severity { return finding.Worst(findings) }

func good(code, format string, args ...any) Finding {
	return Finding{Code: code, Severity: OK, Fact: fmt.Sprintf(format, args...)}
}
