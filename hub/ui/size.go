package ui

import (
	"fmt"
	"html/template"
	"maps"
	"sync"

	"gangway/hub/policy"
)

// MaxPage is the largest size, in bytes, of a page that shows the texts of devices and people in
// full. If a page would be larger, the function `write` makes it again with shorter texts.
//
// The bound exists because the first load of a page, with its static files, must stay below 100 kB,
// but a device can send any text, and a hostile text takes up to six bytes on the page for each
// byte of its own.
const MaxPage = 60 << 10

// textLengths are the bounds on the length of each text, in characters, that the function `write`
// tries one after another. 0 means no bound.
var textLengths = []int{0, 300, 100, 40, 16, 8}

// levels holds the templates for each of textLengths. They are made only when they are needed,
// because a command that shows no page needs none, and few hubs have data that must be shortened.
var levels = func() (list []func() map[string]*template.Template) {
	for _, length := range textLengths {
		list = append(list, sync.OnceValue(func() map[string]*template.Template {
			if length == 0 {
				return parsePages(functions)
			}
			return parsePages(shortening(length))
		}))
	}
	return list
}()

// Load parses the pages and static files. A hub calls Load before it serves, so that a hub with a
// faulty template does not start. Load panics if a file is wrong.
func Load() {
	levels[0]()
	assets()
}

// shortening returns the functions that templates can call, of which those for the texts of devices
// and people shorten each text to n characters.
func shortening(n int) template.FuncMap {
	all := maps.Clone(functions)
	all["visible"] = func(s any) string { return cut(Visible(fmt.Sprint(s)), n) }
	all["lines"] = func(s string) string { return cut(VisibleLines(s), n) }
	return all
}

// Bounds on the text that a form shows again after a problem, in bytes on the page. A person who
// has sent a longer text gets the form without it, but can go back to it in the browser.
const (
	MaxEditor = 24 << 10 // of a text with several lines
	maxInput  = 8 << 10
)

// echo returns the text for an input of a form, or "" if the text is too long for the page.
func echo(kind, value any) string {
	text, most := "", maxInput
	if value != nil {
		text = fmt.Sprint(value)
	}
	if fmt.Sprint(kind) == "textarea" {
		most = MaxEditor
	}
	if Weight(text) > most {
		return ""
	}
	return text
}

// statements are the first statements of a policy, and the number of the statements that the page
// omits.
type statements struct {
	List []policy.Statement
	More int
}

// maxStatements bounds a list of statements, in bytes on the page. statementAround is the size in
// bytes of the HTML around a statement's texts.
const maxStatements, statementAround = 8 << 10, 100

func newStatements(list []policy.Statement) statements {
	room, n := maxStatements, 0
	for n < len(list) {
		if room -= statementAround + Weight(list[n].Words) + Weight(list[n].Setting) + len(list[n].From); room < 0 {
			break
		}
		n++
	}
	return statements{list[:n], len(list) - n}
}

// The function `first` returns the first n texts of a list.
func first(n int, list []string) []string { return list[:min(n, len(list))] }

// Weight returns the number of bytes that a text takes on a page.
func Weight(s string) int { return len(template.HTMLEscapeString(VisibleLines(s))) }
