package console

import (
	"fmt"
	"strings"
	"time"

	"gangway/device/agent"
	"gangway/device/console/access"
	"gangway/device/doctor"
	"gangway/device/screen"
)

// row is one paragraph of a page. It is wrapped to the terminal's width.
type row struct {
	name  string // name of a fact; empty: the row is not a fact
	text  string
	look  look
	exact bool // do not wrap this row, because it is a line of a QR code
}

// look is the appearance of a row. It never carries information of its own, so a page is also
// readable on a terminal without colours.
type look int

const (
	plain look = iota
	strong
	good
	doubtful
	bad
	faint
)

func fact(name, format string, args ...any) row {
	return row{name: name, text: fmt.Sprintf(format, args...)}
}

func para(l look, format string, args ...any) row {
	return row{text: fmt.Sprintf(format, args...), look: l}
}

var blank = row{}

// page is a page of the console.
type page struct {
	name  string
	rows  func(c *console, width, height int) []row
	keys  string // keys that work only on this page, for the bottom line
	tails bool   // the page shows its end at first, and follows new lines
}

var pages = []page{
	{name: "Status", rows: statusPage, keys: "c check"},
	{name: "Network", rows: networkPage, keys: "e edit"},
	{name: "TPM", rows: tpmPage, keys: "c check"},
	{name: "Hub", rows: hubPage, keys: "c check"},
	{name: "Identity", rows: identityPage},
	{name: "Revision", rows: revisionPage},
	{name: "Log", rows: logPage, tails: true},
	{name: "Claim", rows: claimPage},
	{name: "Machine", rows: machinePage, keys: "r restart  p PIN  w wipe"},
}

// The function `ago` returns, as text, the time t and how long ago it was.
func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.DateTime) + " UTC, " + time.Since(t).Round(time.Second).String() + " ago"
}

// The function `known` returns the text `s`, or a dash if `s` is empty.
func known(s string) string {
	if strings.TrimSpace(s) == "" {
		return "-"
	}
	return s
}

func statusPage(c *console, _, _ int) []row {
	f, s := c.facts, c.facts.state
	rows := []row{headline(f)}
	if s.Waiting != "" {
		rows = append(rows, para(doubtful, "Waiting: %s", s.Waiting))
	}
	rows = append(rows, blank, fact("Device", "%s", known(strings.TrimSpace(s.Nick+" "+s.DeviceID))), fact("Owner", "%s", known(s.OwnerNick)),
		fact("Hub", "%s", known(s.Hub)), fact("Revision", "%s", known(s.Revision)), fact("Report", "%s", ago(s.LastSeen)), fact("Boot", "%s", known(s.Boot)), blank)
	return append(rows, c.checkRows(func(doctor.Finding) bool { return true })...)
}

// headline returns a row that describes the machine's state in a sentence.
func headline(f *facts) row {
	switch {
	case f.stateErr != nil:
		return para(bad, "The agent's state cannot be read: %v", f.stateErr)
	case f.state.Phase == agent.PhaseActive && f.state.Step != "":
		return para(good, "This machine is onboarded. In progress: %s.", f.state.Step)
	case f.state.Phase == agent.PhaseActive:
		return para(good, "This machine is onboarded.")
	case f.state.Phase == agent.PhaseRemoved:
		return para(bad, "The hub no longer accepts this machine (%s).", f.state.Removed)
	case f.state.Claim != "":
		return para(doubtful, "This machine has no owner yet. Page 8 shows its claim code.")
	}
	return para(doubtful, "This machine is not onboarded (%s).", known(string(f.state.Phase)))
}

// checkRows returns rows for those findings of the last examination for which the function `of`
// returns true.
func (c *console) checkRows(of func(doctor.Finding) bool) []row {
	if c.health == nil {
		return []row{para(faint, "The machine is being checked.")}
	}
	rows := []row{para(faint, "Checked %s ago.", time.Since(c.health.at).Round(time.Second))}
	if c.checking {
		rows = []row{para(faint, "The machine is being checked.")}
	}
	looks := map[doctor.Severity]look{doctor.Problem: bad, doctor.Warning: doubtful, doctor.Note: plain, doctor.OK: good}
	for _, urgent := range []bool{true, false} { // first the findings that require an action
		for _, f := range c.health.findings {
			if urgent != (f.Severity == doctor.Problem || f.Severity == doctor.Warning) || !of(f) {
				continue
			}
			rows = append(rows, row{name: string(f.Severity), text: f.Fact, look: looks[f.Severity]})
			if f.Severity != doctor.OK && f.Cause != "" {
				rows = append(rows, row{name: " ", text: "Why: " + f.Cause})
			}
			if f.Remedy != "" {
				rows = append(rows, row{name: " ", text: "Remedy: " + f.Remedy})
			}
		}
	}
	return rows
}

func about(prefixes ...string) func(doctor.Finding) bool {
	return func(f doctor.Finding) bool {
		for _, p := range prefixes {
			if strings.HasPrefix(f.Code, p) {
				return true
			}
		}
		return false
	}
}

func networkPage(c *console, _, _ int) []row {
	f := c.facts
	var rows []row
	if f.cardsErr != nil {
		rows = append(rows, para(bad, "The interfaces cannot be listed: %v", f.cardsErr))
	}
	for _, card := range f.cards {
		link := "no link"
		switch {
		case !card.Up:
			link = "off"
		case card.Carrier:
			link = "link"
		}
		rows = append(rows, fact(card.Name, "%s, %s", link, known(card.MAC)))
		for _, a := range card.Addresses {
			rows = append(rows, fact(" ", "%s", a.String()))
		}
	}
	rows = append(rows, blank, fact("Servers", "%s", known(strings.Join(f.names, ", "))), fact("Proxy", "%s", known(f.proxy)), blank)
	if f.network != "" {
		rows = append(rows, para(strong, "Settings"))
		for line := range strings.SplitSeq(strings.TrimRight(f.network, "\n"), "\n") {
			rows = append(rows, para(plain, "%s", line))
		}
		rows = append(rows, blank)
	}
	return append(rows, c.checkRows(about("network", "dns", "proxy"))...)
}

func tpmPage(c *console, _, _ int) []row {
	s := c.facts.state
	var rows []row
	switch {
	case c.health == nil:
	case c.health.tpmErr != nil:
		rows = append(rows, para(bad, "The TPM cannot be used."))
	default:
		t := c.health.tpm
		rows = append(rows, fact("TPM", "%s, revision %s", t.Version, t.Revision), fact("Maker", "%s %s", t.Manufacturer, t.Model), fact("Firmware", "%s", t.Firmware),
			fact("Banks", "%s", known(strings.Join(t.Banks, ", "))), fact("Lockout", "%d of %d tries counted", t.Lockout.Tries, t.Lockout.Max))
	}
	rows = append(rows, fact("EK", "%s", known(s.EK)), fact("EK SHA-256", "%s", known(s.EKSHA256)), blank)
	return append(rows, c.checkRows(about("tpm", "event-log"))...)
}

func hubPage(c *console, _, _ int) []row {
	s := c.facts.state
	rows := []row{fact("Hub", "%s", known(s.Hub)), fact("Name", "%s", known(s.HubName))}
	if s.Addresses != nil {
		for i, u := range s.Addresses.URLs {
			rows = append(rows, fact([]string{"Addresses", " "}[min(i, 1)], "%s", u))
		}
	}
	rows = append(rows, fact("Report", "%s", ago(s.LastSeen)), blank)
	return append(rows, c.checkRows(about("hub", "clock", "device", "agent"))...)
}

func identityPage(c *console, _, _ int) []row {
	s := c.facts.state
	rows := []row{fact("Nick", "%s", known(s.Nick)), fact("Device", "%s", known(s.DeviceID)), fact("Owner", "%s", known(strings.TrimSpace(s.OwnerNick+" "+s.Owner))),
		fact("Phase", "%s", known(string(s.Phase))), fact("Key", "%s", known(s.Key)), fact("Onboarded", "%s", ago(s.Onboarded)), blank}
	for i, cert := range c.facts.chain {
		title := []string{"IDevID certificate", "Its issuer"}[min(i, 1)]
		rows = append(rows, para(strong, "%s", title), fact("Subject", "%s", cert.Subject.String()), fact("Serial", "%x", cert.SerialNumber), fact("SHA-256", "%s", fingerprint(cert)), blank)
	}
	return append(rows, para(faint, "The key is in the TPM and cannot be read."))
}

func revisionPage(c *console, _, _ int) []row {
	s := c.facts.state
	step := s.Step
	if step == "" {
		step = "none"
	}
	return []row{fact("Runs", "%s", known(s.Revision)), fact("Work", "%s", step), fact("Boot", "%s", known(s.Boot)), fact("Program", "%s", c.cfg.Version)}
}

func logPage(c *console, _, _ int) []row {
	f := c.facts
	if f.logErr != nil {
		return []row{para(doubtful, "The log cannot be read: %v", f.logErr), para(plain, "This console does not know where the agent's log is. To see the log here, name its file with --log-file.")}
	}
	if len(f.log) == 0 {
		return []row{para(faint, "The log is empty.")}
	}
	var rows []row
	for _, line := range f.log {
		rows = append(rows, para(plain, "%s", line))
	}
	return rows
}

func claimPage(c *console, width, height int) []row {
	s := c.facts.state
	if s.Claim == "" {
		return []row{para(plain, "There is no claim code."), blank,
			para(faint, "Only a machine that was installed without a join token, and has no owner yet, shows a claim code.")}
	}
	rows := []row{para(strong, "Compare: %s", s.ClaimWords)}
	code, err := screen.QR(s.Claim, height-2)
	if err == nil && len([]rune(code[0])) <= width && c.unicode {
		for _, line := range code {
			rows = append(rows, row{text: line, exact: true})
		}
	} else {
		rows = append(rows, blank)
	}
	return append(rows, para(plain, "%s", s.Claim))
}

func machinePage(c *console, _, _ int) []row {
	f := c.facts
	rows := []row{fact("Host", "%s", known(f.host)), fact("Up", "%s", f.uptime), fact("Clock", "%s UTC", time.Now().UTC().Format(time.DateTime)), fact("Program", "%s", c.cfg.Version), blank}
	for _, a := range actions {
		mark, why := "   ", ""
		if err := c.allowed(a); err != nil {
			mark, why = " - ", " ("+err.Error()+")"
		}
		rows = append(rows, para(plain, "%c%s%s%s", a.key, mark, a.what, why))
	}
	return append(rows, blank, para(faint, "The owner limits this console with the user-meta %s: off, read, on or full. Now: %s.", access.MetaKey, f.level))
}

// helpRows explain the keys.
var helpRows = []row{
	para(strong, "Keys"), blank,
	fact("1 to 9", "open a page"), fact("left, right", "previous page, next page; also Tab"),
	fact("up, down", "scroll; also Page Up, Page Down, Home, End"), fact("c", "check the machine again"), fact("Ctrl-L", "draw the screen again"),
	fact("?", "this help"), fact("q", "leave the console; also Ctrl-C"), blank,
	fact("e", "on page 2: edit the network settings"), fact("r, p, w", "on page 9: restart, PIN of the disk, wipe"), blank,
	para(faint, "In the editor: Ctrl-O tries the settings, Esc cancels the changes."),
}
