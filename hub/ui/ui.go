// Package ui contains the hub's web pages. They work without JavaScript, on phones and desktops, in
// light and dark.
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

// StyleSheet is the style sheet of all pages.
//
//go:embed style.css
var StyleSheet []byte

var templates = template.Must(template.New("").Funcs(template.FuncMap{"when": newWhen, "maker": maker, "bootState": bootState}).ParseFS(pages, "*.html"))

// bootState returns the text for a boot state. Each state has its own text, so that no two states
// look alike.
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

// Home is the content of the page with the list of devices.
type Home struct {
	Nick    string
	Hub     string // the hub's URL, for the commands on the page
	HubName string
	Devices []store.Device
	Boots   map[string]string // boot states by device id; a device that is missing here is unmeasured
	Total   int               // number of all devices; Devices may have only the first of them
	Waiting []Waiting
	Cloned  []Cloned // devices that may be several machines
	Events  []store.Event
	Now     time.Time
}

// Waiting is a device that waits for a decision. It has the reasons, in sentences.
type Waiting struct {
	store.WaitingDevice
	Reasons []string
}

// Cloned is a device whose TPM state may run in several machines. It has the reasons, in sentences,
// and the codes of the findings that no decision covers.
type Cloned struct {
	store.Device
	Reasons, Codes []string
}

// SignIn is the content of the page for people who are not signed in.
type SignIn struct {
	Nick    string // as typed
	Problem string // a sentence about what went wrong; empty at first
}

// ClaimPage is the content of the page that a claim code leads to.
type ClaimPage struct {
	Code, Words string
	Nick        string // of the signed-in account; empty: nobody is signed in
	Typed       string // the nick in the form, as typed
	Problem     string // a sentence about what went wrong; empty at first
}

// WriteClaim writes the page that a claim code leads to.
func WriteClaim(w io.Writer, c ClaimPage) error { return templates.ExecuteTemplate(w, "claim.html", c) }

// Problem is the content of the page for an error.
type Problem struct {
	Code, Message, Hint string
}

// WriteProblem writes the page for an error.
func WriteProblem(w io.Writer, p Problem) error {
	return templates.ExecuteTemplate(w, "problem.html", p)
}

// WriteHome writes the page with the list of devices.
func WriteHome(w io.Writer, h Home) error { return templates.ExecuteTemplate(w, "home.html", h) }

// WriteSignIn writes the page for people who are not signed in.
func WriteSignIn(w io.Writer, s SignIn) error { return templates.ExecuteTemplate(w, "signin.html", s) }

// Ago returns the time between t and now, in words.
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

// when is a time in the form of the pages: how long ago it was, and the exact time as a tooltip and
// for screen readers.
type when struct {
	At                time.Time
	Ago, Stamp, Exact string
}

func newWhen(now, t time.Time) when {
	u := t.UTC()
	return when{t, Ago(now, t), u.Format(time.RFC3339), u.Format("2 Jan 2006 15:04:05 UTC")}
}

// maker returns the name of a TPM's maker and model for people. It leaves out the maker of the
// software TPM, which is only a number.
func maker(manufacturer, model string) string {
	if manufacturer == "id:00001014" {
		manufacturer = ""
	}
	return strings.TrimSpace(manufacturer + " " + model)
}
