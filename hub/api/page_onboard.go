package api

import (
	"net/http"
	"slices"

	"gangway/hub/ui"
)

// onboardTabs are links to the pages of the section Onboard that have a route. current is the
// address of the shown page.
func onboardTabs(current string) (tabs []ui.Tab) {
	for _, tab := range []ui.Tab{
		{Name: "Tokens", Path: "/ui/onboard"},
		{Name: "Waiting", Path: "/ui/onboard/waiting"},
		{Name: "Claim", Path: "/ui/onboard/claim"},
		{Name: "Wall", Path: "/ui/wall"},
	} {
		if !slices.ContainsFunc(onboardPages, func(path string) bool { return path == tab.Path }) {
			continue
		}
		tab.Current = tab.Path == current
		tabs = append(tabs, tab)
	}
	return tabs
}

// onboardPages are the addresses that have a page.
var onboardPages []string

func init() {
	for _, rt := range routes {
		if rt.method == http.MethodGet {
			onboardPages = append(onboardPages, rt.path)
		}
	}
}
