package ui

import (
	"fmt"
	"strings"
	"time"

	"gangway/hub/boot"
	"gangway/hub/chain"
	"gangway/hub/store"
	"gangway/wire/trail"

	"github.com/dustin/go-humanize"
)

// DevicePage is the data of the page "device". Only the fields of the chosen tab are set.
type DevicePage struct {
	Device store.Device
	Path   string // the page's path, without the query
	Badges []Badge
	Needs  []Need
	Tabs   []Tab

	Summary   *DeviceSummary
	Trust     *DeviceTrust
	Boots     *DeviceBoots
	Revisions *DeviceRevisions
	Meta      *DeviceMeta
	Logs      *DeviceLogs
	Events    *DeviceEvents
	Settings  *DeviceSettings

	// Evidence is the data of the one-page printout. It is set in the tabs Summary and Trust.
	Evidence *Evidence
}

// Need is something about a device that its owner must look at.
type Need struct {
	Tone, Text string // as in Badge
	Path, Act  string // address and text of a link
	Here       bool   // the link leads to the tab that the page shows
}

// Fact is a name and a value. Value must not contain characters that Visible escapes.
type Fact struct {
	Name, Value, Note string
	Mono              bool
}

// Moment is an entry of a device's timeline.
type Moment struct {
	Time        time.Time
	Icon, Title string
	Detail      string
	Took        string // the duration, to the millisecond
	Bad         bool
}

// DeviceSummary is the tab "Summary".
type DeviceSummary struct {
	Well  string // a sentence that says whether the device is well
	Where []Fact
	Runs  []Fact
	Chain chain.Picture
	Facts []Fact // facts about the machine, the same as on the machine's console
	Life  []Moment
}

// DeviceTrust is the tab "Trust".
type DeviceTrust struct {
	Chain        chain.Picture
	Link         chain.Link // the link of the chain that the tab shows
	Certificates []chain.Certificate
	Facts        []Fact // hashes and names of keys
	Judged       time.Time
	Cloned       *Cloned // nil: nothing to decide
	CloneBack    bool    // the owner may withdraw the decision
}

// Evidence is the data of the printed page about a device's evidence.
type Evidence struct {
	Chain        chain.Picture
	Certificates []chain.Certificate
	Facts        []Fact
	Judged       time.Time
}

// DeviceBoots is the tab "Boots".
type DeviceBoots struct {
	State     string
	Refusal   *store.BootRefusal
	Changes   []boot.Change
	Parts     []boot.PartVerdict // empty if an older hub judged the boot, without its parts
	System    *boot.System       // nil if no manifest names the system
	Reference *boot.Reference
	Latest    *boot.Measurement
	Measured  time.Time
	Number    int64
	Requested bool
	Lasting   bool // true if the measurement can become the reference
	PCRs      []PCR
	History   []PastBoot
	Problem   string
}

// PCR is a line of the table of measured values.
type PCR struct {
	Number            int
	Words             string // what the firmware or the system measures into this PCR
	Value, Reference  string // hexadecimal; Reference is empty if the PCR is not compared
	Explained, Equal  bool
	Events            []boot.Event
	MoreEvents        int // how many events are left out
	Compared, InUse   bool
	ReferenceMeasured bool
}

// PastBoot is an earlier measurement.
type PastBoot struct {
	Time  time.Time
	State string
	Words []string
}

// DeviceRevisions is the tab "Revisions".
type DeviceRevisions struct {
	Trail    bool // the device has a trail
	Newest   int
	Reported int
	Rows     []RevisionRow
	Next     string // address of the page with older revisions
	Shown    *RevisionShown
	Preview  *RevisionPreview
	Problem  string // what is wrong with the posted state; empty: nothing
}

// RevisionRow is a line of the list of revisions.
type RevisionRow struct {
	store.Revision
	By      string
	Report  trail.Report
	Badge   Badge
	Current bool // the page shows this revision in full
	Running bool // the device's latest report is about this revision
}

// RevisionShown is one revision, and how it differs from another revision.
type RevisionShown struct {
	RevisionRow
	From    int // the other revision; -1: none
	Changes []trail.Change
	More    int // how many changes are left out
	Files   int
	Text    string // the state of the revision, indented; empty: it is too long for the page
	// CanCancel is true if the device has not begun to install the revision, CanStop if the device
	// is installing it. CanRepost is true if the revision's state can be posted again.
	CanCancel, CanStop, CanRepost bool
}

// RevisionPreview shows what a new revision would change.
type RevisionPreview struct {
	From     int    // the number of an earlier revision, if its state is posted again; -1: State is new
	State    string // JSON; empty if From is set or Long is true
	Sum      string // SHA-256 of the new state
	Long     bool   // the form has no room for the new state, so it asks for the file again
	Newest   int    // the newest revision, with which the state is compared
	Message  string
	Changes  []trail.Change
	More     int
	Files    int
	Problem  string
	RollBack bool
}

// DeviceMeta is the tab "Metadata".
type DeviceMeta struct {
	User, Reported         []MetaRow
	MoreUser, MoreReported int // how many keys are left out
	UserSize, ReportedSize int // in bytes
	Max                    int
	Text                   string // the user-meta as typed, or as stored, in indented JSON
	TooLong                bool   // Text is empty, because it is too long for the page
	Was                    string // a hash of the stored user-meta
	Key, Value             string // as typed
	KeyProblem, Problem    string
	Replace                bool
	Unreadable             []string
}

// MetaRow is a key of user-meta or device-meta, with its value.
type MetaRow struct {
	Name  string
	Value string // JSON, or the text itself
	Cut   bool   // Value is only the beginning of the value

	LongName bool // Name is too long for a form on the page
}

// SetText sets the text of the editor. If the text takes more than `most` bytes on the page, the
// editor stays empty and TooLong becomes true.
func (m *DeviceMeta) SetText(text string, most int) {
	m.Text, m.TooLong = text, Weight(text) > most
	if m.TooLong {
		m.Text = ""
	}
}

// DeviceLogs is the tab "Logs".
type DeviceLogs struct {
	Lines               []store.LogEntry
	Source, Level, Text string
	Sources, Levels     []string // sources and levels that occur in the shown lines
	Live                bool
	LivePath, StillPath string // addresses of the same lines, with and without live updates
	PollPath            string
	Next, Download      string
	Older               bool // these are not the newest lines
}

// DeviceEvents is the tab "Events".
type DeviceEvents struct {
	Events  []store.Event
	Routine bool
	Toggle  string // address of the same list with or without routine events
	Next    string
}

// DeviceSettings is the tab "Settings".
type DeviceSettings struct {
	Nick, NickProblem string // as typed
	ConfirmProblem    string
	Lost              []string // sentences about what is lost with the device
	TokenID           string
	HasTPM            bool
}

// Shield is how the page shows a state in the chain of trust: by an icon and a CSS class.
type Shield struct{ Icon, Class string }

var shields = map[chain.State]Shield{
	chain.Verified:    {"shield-check", "verified"},
	chain.Decided:     {"user", "decided"},
	chain.NotExamined: {"minus", "unexamined"},
	chain.Waiting:     {"circle-alert", "waiting"},
	chain.Refused:     {"shield-off", "refused"},
}

// Exactly returns a duration as text, with milliseconds.
func Exactly(d time.Duration) string {
	d = d.Round(time.Millisecond)
	switch {
	case d < 0:
		return ""
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.3f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %.3f s", int(d.Minutes()), (d % time.Minute).Seconds())
	}
	return fmt.Sprintf("%d h %d min %.3f s", int(d.Hours()), int(d.Minutes())%60, (d % time.Minute).Seconds())
}

// Roughly returns a duration as text, with at most two units.
func Roughly(d time.Duration) string {
	seconds := max(0, int(d.Seconds()))
	switch {
	case seconds < 60:
		return fmt.Sprintf("%d s", seconds)
	case seconds < 3600:
		return fmt.Sprintf("%d min %d s", seconds/60, seconds%60)
	case seconds < 48*3600:
		return fmt.Sprintf("%d h %d min", seconds/3600, seconds/60%60)
	}
	return fmt.Sprintf("%d days %d h", seconds/86400, seconds/3600%24)
}

// cut shortens a text that comes from a device to `n` characters.
func cut(s string, n int) string {
	runes := []rune(s)
	if len(runes) <= n {
		return s
	}
	return string(runes[:n]) + "…"
}

// Bytes writes a size with one unit.
func Bytes(n uint64) string { return humanize.IBytes(n) }

// levelTone returns the CSS class for a log line's level.
func levelTone(level string) string {
	switch strings.ToUpper(level) {
	case "FATAL", "ERROR", "ERR", "CRIT", "ALERT", "EMERG":
		return "bad"
	case "WARN", "WARNING":
		return "ask"
	case "DEBUG", "TRACE":
		return "soft"
	}
	return ""
}
