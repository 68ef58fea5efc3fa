// Package ui contains the hub's web pages: a layout, components, one style sheet, one script and
// third-party files. Every page works without JavaScript; the script adds live changes, shortcuts
// and copying. No page contains a script or a style, because the content security policy forbids
// both in a page.
//
// # Addresses
//
// Every page has an address under /ui/, such as /ui/overview, /ui/devices or /ui/devices/{id}, so
// that no page has the address of an API route. The search, order, tab and page number are in the
// query, so that a person can send the address to a colleague. A form posts to an address under
// /ui/, which answers with a redirect to a page. Only /, /sign-in, /sign-out and /claim/{code} are
// elsewhere.
//
// # To add a page
//
//  1. hub/ui/NAME.html: a template that begins with {{define "main"}}. Its dot is a Page; the
//     page's own data is .Data. Declare the type of this data in a Go file next
//     to the template.
//  2. hub/api/page_NAME.go: the handler. It ends with
//     s.renderPage(w, r, http.StatusOK, "NAME", ui.Page{Title: ..., Section: ui.SectionDevices, Data: ...}).
//     The handler of a form ends with s.redirect(w, r, "/ui/...", ui.Notice{...}).
//  3. hub/api/routes.go: the route, with the access fullSession. Visitors who are not signed in get
//     the sign-in form, and then the page. The rail, the list of sections at the side, shows a
//     section as soon as the section's address has a route.
//  4. internal/browser/pages_test.go: one line for the page. The test opens the page in every
//     window size and colour scheme, and checks it with axe-core.
//
// # Components
//
// The components are in parts.html, with their parameters. A component with several parameters
// takes them by name: {{template "field" (args "name" "nick" "label" "Nick" "value" .Data.Nick)}}.
//
//	"page-head"   the title, and at its end the page's main action
//	"badge"       a state: (badge "active"), (state .Row)
//	"time"        how long ago a time was, with the exact time: (when $.Now .LastSeen)
//	"id"          an id, shortened in the middle, with a copy button: {{template "id" .ID}}
//	"copy"        a command or another text with a copy button: {{template "copy" "gangway device ls"}}
//	"csrf"        the form token; every form with method=post begins with it: {{template "csrf" $}}
//	"field"       a label, an input, a hint and the error message
//	"tabs"        links to the parts of a page: a slice of Tab
//	"menu-open", "menu-close"  begin and end a menu; the items between them are links and forms
//	"empty"       for a page without data: an explanation, the next step, and its commands
//	"notice"      a Notice
//	"progress"    a bar with its number
//	"confirm"     a form for an action that deletes something; it asks for the nick
//	"pages"       links to the first and the next page
//	"facts-open", "fact", "facts-close"  a list of names and values
//	"icon"        {{icon "search"}}: an icon of hub/ui/vendor/icons, hidden from screen readers
//
// A table is <div class="table-box"><table class="rows">. Each td has data-label with the name of
// its column: on a phone each row becomes a block of lines "name value". The first cell of a row
// has class="name" and the row's link with class="row-link", which covers the whole row.
//
// Put text of devices and people (nicks, models, metadata) into <bdi>: then a right-to-left
// override in the text cannot reorder the text around it. Pass such a text through "visible" or
// "lines", which also shorten it on a page that would be larger than MaxPage. Bound lists by the
// bytes that they need on the page: see Weight.
package ui

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"gangway/hub/store"
)

//go:embed *.html
var sources embed.FS

// A Section is a part of the hub's web pages, with an entry in the rail, the list of sections at
// the side.
type Section struct {
	Name, Path, Icon string
	Key              string // the section's shortcut is "g", then this key
	// InMore moves the section into the menu "More" on a phone.
	InMore bool
}

// The sections of the rail.
var (
	SectionOverview  = Section{Name: "Overview", Path: "/ui/overview", Icon: "gauge", Key: "o"}
	SectionDevices   = Section{Name: "Devices", Path: "/ui/devices", Icon: "cpu", Key: "d"}
	SectionOnboard   = Section{Name: "Onboard", Path: "/ui/onboard", Icon: "plus", Key: "n"}
	SectionRevisions = Section{Name: "Revisions", Path: "/ui/revisions", Icon: "git-branch", Key: "r", InMore: true}
	SectionTrust     = Section{Name: "Trust", Path: "/ui/trust", Icon: "shield-check", Key: "t", InMore: true}
	SectionAudit     = Section{Name: "Audit", Path: "/ui/audit", Icon: "scroll-text", Key: "a"}
	SectionSettings  = Section{Name: "Settings", Path: "/ui/settings", Icon: "settings", Key: "s", InMore: true}

	// SectionOperator is shown only to accounts with the role operator.
	SectionOperator = Section{Name: "Operator", Path: "/ui/operator", Icon: "server", Key: "p", InMore: true}

	Sections = []Section{SectionOverview, SectionDevices, SectionOnboard, SectionRevisions, SectionTrust, SectionAudit, SectionSettings}
)

// Page is the data of the layout, and the page's own data.
type Page struct {
	Title   string  // title of the document and, with "page-head", of the page
	Section Section // zero: none
	Data    any
	// Wide is true if the page uses the whole width of the window.
	Wide bool
	// Refresh is the number of seconds after which the browser reloads the page, even without
	// JavaScript. If it is 0, the browser never does; if it is negative, it does so immediately.
	Refresh int
	// NoScriptRefresh is the number of seconds after which a browser without JavaScript reloads the
	// page.
	NoScriptRefresh int
	// If Bare is not empty, the page has no rail and no menus, for a screen that nobody operates.
	// Bare is the page's CSS class.
	Bare string

	// The fields below are filled in by renderPage.

	Nick     string // nick of the signed-in account; empty: nobody is signed in, and there is no rail
	CSRF     string // the form token of the session
	Notice   *Notice
	Now      time.Time
	Hub      string // the hub's URL
	HubName  string
	Version  string
	Path     string // the request's path and query
	Sections []Section

	// Shortened means that long texts are shortened on this page. The function `write` sets it.
	Shortened bool
}

// More reports whether any section is in the menu "More".
func (p Page) More() bool {
	return slices.ContainsFunc(p.Sections, func(s Section) bool { return s.InMore })
}

// Notice is a sentence about what has just happened, or about what needs attention.
type Notice struct {
	Tone string `json:"t,omitempty"` // "ok", "warn", "bad", or empty
	Text string `json:"x"`
	// UndoPath, if set, is the address of the form that undoes the action. The form posts
	// UndoValue.
	UndoPath  string `json:"p,omitempty"`
	UndoValue string `json:"v,omitempty"`
}

// Tab is a link to one of the tabs of a page.
type Tab struct {
	Name, Path string
	Current    bool
	Count      int // shown if it is not 0
}

// parsePages makes one template for each page: the layout and the components, with the page's
// definition of "main".
func parsePages(functions template.FuncMap) map[string]*template.Template {
	base := template.Must(template.New("base").Funcs(functions).ParseFS(sources, "layout.html", "parts.html"))
	files, err := fs.Glob(sources, "*.html")
	if err != nil {
		panic(err)
	}
	pages := map[string]*template.Template{}
	for _, file := range files {
		name := strings.TrimSuffix(file, path.Ext(file))
		if name == "layout" || name == "parts" || strings.Contains(name, "-") {
			continue
		}
		page := template.Must(template.Must(base.Clone()).ParseFS(sources, file))
		// The tabs of a large page have their own files, for example device-logs.html.
		if parts, err := fs.Glob(sources, name+"-*.html"); err == nil && len(parts) > 0 {
			page = template.Must(page.ParseFS(sources, parts...))
		}
		pages[name] = page
	}
	return pages
}

// Write writes the page with this name.
func Write(w io.Writer, name string, p Page) error { return write(w, name, "layout", p) }

// WritePart writes one template definition of a page's file, without the layout: a part of the page
// that the script replaces.
func WritePart(w io.Writer, name, part string, p Page) error { return write(w, name, part, p) }

func write(w io.Writer, name, part string, p Page) error {
	var b bytes.Buffer // a buffer, so that a failure writes nothing to `w`
	for level := range textLengths {
		t := levels[level]()[name]
		if t == nil {
			return fmt.Errorf("ui: there is no page %q", name)
		}
		b.Reset()
		p.Shortened = level > 0
		if err := t.ExecuteTemplate(&b, part, p); err != nil {
			return fmt.Errorf("ui: page %s: %w", name, err)
		}
		if b.Len() <= MaxPage {
			break
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// SignIn is the data of the page "signin".
type SignIn struct {
	Nick    string // as typed
	Next    string // the address to go to after signing in
	Problem string // a sentence about what went wrong; empty at first
}

// Problem is the data of the page "problem", for an error.
type Problem struct {
	Code, Message, Hint string
}

// Cloned is a device whose TPM state may exist on several machines. Reasons are sentences. Codes
// are the codes of the findings about which nobody has decided yet.
type Cloned struct {
	store.Device
	Reasons, Codes []string
}
