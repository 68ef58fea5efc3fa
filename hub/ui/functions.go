package ui

import (
	"fmt"
	"html/template"
	"strings"
	"time"

	"gangway/hub/boot"
	"gangway/hub/chain"
	"gangway/hub/store"

	"github.com/dustin/go-humanize"
)

// functions are the functions that templates can call.
var functions = template.FuncMap{
	"args":       args,
	"asset":      AssetPath,
	"badge":      func(state any) Badge { return StateBadge(fmt.Sprint(state)) },
	"bootBadge":  bootBadge,
	"bootState":  bootState,
	"partBadge":  PartBadge,
	"bytes":      func(n int) string { return Bytes(uint64(max(n, 0))) },
	"cut":        cut,
	"echo":       echo,
	"first":      first,
	"statements": newStatements,
	"weight":     Weight,
	"levelTone":  levelTone,
	"pcrWords":   boot.PCRWords,
	"shield":     func(s chain.State) Shield { return shields[s] },
	"visible":    func(s any) string { return Visible(fmt.Sprint(s)) },
	"lines":      VisibleLines,
	"lower":      func(s any) string { return strings.ToLower(fmt.Sprint(s)) },
	"icon":       icon,
	"maker":      Maker,
	"makerName":  MakerName,
	"meansWords": meansWords,
	"number":     Number,
	"percent":    percent,
	"problem":    func(text string) *Notice { return &Notice{Tone: "bad", Text: text} },
	"shortened":  shortened,
	"when":       newWhen,
}

// args makes a component's parameters from alternating names and values. Missing parameters are
// empty.
func args(pairs ...any) (map[string]any, error) {
	if len(pairs)%2 != 0 {
		return nil, fmt.Errorf("args: a name without a value")
	}
	m := make(map[string]any, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		name, ok := pairs[i].(string)
		if !ok {
			return nil, fmt.Errorf("args: %v is not a name", pairs[i])
		}
		m[name] = pairs[i+1]
	}
	return m, nil
}

// Badge is a state in words, with a colour and a shape.
type Badge struct {
	// Tone is the look: "ok" (green dot), "off" (hollow grey dot), "ask" (amber diamond), "bad"
	// (red outline), "busy" (blue bar), "gone" (struck grey).
	Tone, Text string
}

// badges contains a badge for each state of a device, a boot, a join token or a waiting machine.
var badges = map[string]Badge{
	store.StateActive:      {"ok", "active"},
	store.StateQuiet:       {"off", "quiet"},
	store.StateBootChanged: {"bad", "boot changed"},
	store.StateUpdating:    {"busy", "updating"},
	store.StateFailed:      {"bad", "update failed"},
	store.StateCloned:      {"ask", "cloned?"},

	"building":     {"busy", "building"},
	"valid":        {"ok", "valid"},
	"enabled":      {"ok", "enabled"},
	"expires soon": {"ask", "expires soon"},
	"used up":      {"off", "used up"},
	"disabled":     {"gone", "disabled"},

	"waiting": {"ask", "waiting for you"},
	"denied":  {"gone", "denied"},
	"refused": {"gone", "refused"},
	"revoked": {"gone", "revoked"},
	"expired": {"gone", "expired"},
	"deleted": {"gone", "deleted"},

	store.BootMatches: {"ok", "boot matches"},
	store.BootNothing: {"off", "nothing measured"},
}

// StateBadge returns the badge for a state, for example of a device or of a boot. A state without
// an entry in `badges` gets a grey badge with the state as its text.
func StateBadge(state string) Badge {
	if b, ok := badges[state]; ok {
		return b
	}
	return Badge{"off", state}
}

// bootState returns the text for a boot state. Different states have different texts.
func bootState(state string) string {
	switch state {
	case store.BootMatches:
		return "boot matches"
	case store.BootChanged:
		return "boot changed"
	case store.BootNothing:
		return "nothing measured"
	case store.BootRefused:
		return "measurement refused"
	}
	return "boot " + state
}

// bootBadge returns the badge of a boot state.
func bootBadge(state string) Badge {
	tone := "bad"
	switch state {
	case store.BootMatches:
		tone = "ok"
	case store.BootNothing, store.BootUnmeasured:
		tone = "off"
	}
	return Badge{tone, bootState(state)}
}

// Number returns a number as text, with separators between thousands.
func Number(n int) string { return humanize.Comma(int64(n)) }

// percent returns n as a share of total, from 0 to 100.
func percent(n, total int) int {
	if total <= 0 {
		return 0
	}
	return max(0, min(100, n*100/total))
}

// shortened cuts the middle out of a long id, so that ids that differ only at the end stay
// different.
func shortened(id string) string {
	if len(id) <= 14 {
		return id
	}
	return id[:6] + "…" + id[len(id)-6:]
}

// Ago returns the time between `t` and `now`, in words.
func Ago(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	switch d := now.Sub(t); {
	case d < -10*time.Second:
		return "in " + Span(-d)
	case d < 10*time.Second:
		return "just now"
	case d < 48*time.Hour:
		return Span(d) + " ago"
	default:
		return t.Format("2 Jan 2006")
	}
}

// Span returns a duration as text, in one unit.
func Span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days", int(d.Hours())/24)
	}
}

// when is a time as pages show it: how long ago it was, and the exact time for a tooltip and for
// screen readers.
type when struct {
	At                time.Time
	Ago, Stamp, Exact string
}

func newWhen(now, t time.Time) when {
	u := t.UTC()
	return when{t, Ago(now, t), u.Format(time.RFC3339), u.Format("2 Jan 2006 15:04:05 UTC")}
}

// Maker returns a TPM's maker and model as a page shows them. It leaves out the maker's id of IBM's
// software TPM, which is only a number.
func Maker(manufacturer, model string) string {
	if manufacturer == "id:00001014" {
		manufacturer = ""
	}
	return strings.TrimSpace(manufacturer + " " + model)
}

// MakerName returns the name of a TPM's maker as a page shows it. This is the maker's id, except
// for IBM, whose id is only a number, and which some software TPMs use too.
func MakerName(manufacturer string) string {
	if manufacturer == "id:00001014" {
		return "IBM's software TPM"
	}
	return manufacturer
}
