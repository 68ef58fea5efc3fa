// Package ui is the pages that a person looks at. They work without
// JavaScript, on a phone as on a desk, in light and dark.
package ui

import (
	"embed"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"

	"gangway/hub/store"
)

//go:embed *.html
var pages embed.FS

// StyleSheet is the pages' one style sheet.
//
//go:embed style.css
var StyleSheet []byte

var templates = template.Must(template.New("").Funcs(template.FuncMap{"when": newWhen, "maker": maker, "bootState": bootState}).ParseFS(pages, "*.html"))

// bootState is a boot's state as the page says it. Each state has words of its
// own: none falls under another's.
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

// Home is what the list of devices shows.
type Home struct {
	Nick    string
	Hub     string // its URL, for the commands that are shown
	HubName string
	Devices []store.Device
	Boots   map[string]string // states of boots, by device; none: unmeasured
	Total   int               // devices in all; Devices may be the first of them
	Waiting []Waiting
	Cloned  []Cloned // devices of which several machines may run
	Events  []store.Event
	Now     time.Time
}

// Waiting is a machine that a person must decide about, and why, in sentences.
type Waiting struct {
	store.WaitingDevice
	Reasons []string
}

// Cloned is a device whose TPM state may run in several machines: why, in
// sentences, and the codes of what no decision has answered.
type Cloned struct {
	store.Device
	Reasons, Codes []string
}

// SignIn is the page for somebody who is not signed in.
type SignIn struct {
	Nick    string // as it was typed
	Problem string // what went wrong, a sentence; empty at first
}

// ClaimPage is the page that a machine's code leads to.
type ClaimPage struct {
	Code, Words string
	Nick        string // who is signed in; empty: nobody
	Typed       string // as it was typed
	Problem     string // what went wrong, a sentence; empty at first
}

// WriteClaim writes the page.
func WriteClaim(w io.Writer, c ClaimPage) error { return templates.ExecuteTemplate(w, "claim.html", c) }

// Problem is the page for what could not be done.
type Problem struct {
	Code, Message, Hint string
}

// WriteProblem writes the page.
func WriteProblem(w io.Writer, p Problem) error {
	return templates.ExecuteTemplate(w, "problem.html", p)
}

// WriteHome writes the page.
func WriteHome(w io.Writer, h Home) error { return templates.ExecuteTemplate(w, "home.html", h) }

// WriteSignIn writes the page.
func WriteSignIn(w io.Writer, s SignIn) error { return templates.ExecuteTemplate(w, "signin.html", s) }

// Ago says how long before now a time was, in words.
func Ago(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	switch d := now.Sub(t); {
	case d < 10*time.Second:
		return "just now"
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	default:
		return t.Format("2 Jan 2006")
	}
}

// when is a time as the pages show it: how long ago, and exactly for who wants
// to know or listens to a screen reader.
type when struct {
	At                time.Time
	Ago, Stamp, Exact string
}

func newWhen(now, t time.Time) when {
	u := t.UTC()
	return when{t, Ago(now, t), u.Format(time.RFC3339), u.Format("2 Jan 2006 15:04:05 UTC")}
}

// maker names a TPM for a person; the software TPM has only a number.
func maker(manufacturer, model string) string {
	if manufacturer == "id:00001014" {
		manufacturer = ""
	}
	return strings.TrimSpace(manufacturer + " " + model)
}
