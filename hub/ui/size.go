package ui

import (
	"fmt"
	"html/template"
	"maps"
	"sync"

	"gangway/hub/policy"
)

// MaxPage is the largest size of a page, in bytes, that shows all texts of devices and people in
// full. If a page is larger, the function `write` makes it again with shorter texts.
//
// The reason: the first load of a page, with its static files, must stay below 100 kB. But a device
// can send texts of any content, and a page needs up to six bytes for one byte of a hostile text.
const MaxPage = 60 << 10

// textLengths are the largest lengths of one text, in characters, that the function `write` tries
// one after the other. 0 means no bound.
var textLengths = []int{0, 300, 100, 40, 16, 8}

// levels has the templates for each of textLengths. The templates are made when they are needed: a
// command that shows no page needs no templates, and few hubs have data that needs short texts.
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

// shortening returns the functions that templates can call. In this set, the functions for texts of
// devices and people shorten each text to n characters.
func shortening(n int) template.FuncMap {
	all := maps.Clone(functions)
	all["visible"] = func(s any) string { return cut(Visible(fmt.Sprint(s)), n) }
	all["lines"] = func(s string) string { return cut(VisibleLines(s), n) }
	return all
}

// Bounds on the text that a form shows again after a problem, in bytes on the page. A person who
// sent a longer text gets the form without the text; the browser can go back to the text.
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

// Weight returns the number of bytes that a text needs on a page.
func Weight(s string) int { return len(template.HTMLEscapeString(VisibleLines(s))) }
