package api

import (
	"net/http"
	"regexp"
	"testing"
)

// Each name in the maps `essential` and `widened` is the name of a route. Without this test, nobody
// would notice a misspelled name, whose entry would have no effect.
func TestTablesNameRoutes(t *testing.T) {
	names := map[string]bool{}
	for _, rt := range routes {
		names[rt.name()] = true
	}
	for name := range essential {
		if !names[name] {
			t.Errorf("essential names %s, which is not a route", name)
		}
	}
	for name := range widened {
		if !names[name] {
			t.Errorf("widened names %s, which is not a route", name)
		}
	}
}

// Requests that end or remove something must work even when the disk is full: people need them to
// make room, or to stop an intruder. A page sends them with POST, so the method does not show them.
func TestRemovalsAreEssential(t *testing.T) {
	ends := regexp.MustCompile(`/(delete|remove|clear|revoke|disable|cancel|deny|logout|sign-out|sessions)$`)
	n := 0
	for _, rt := range routes {
		if rt.method != http.MethodPost || !ends.MatchString(rt.path) {
			continue
		}
		if n++; !essential[rt.name()] {
			t.Errorf("%s ends or removes something, but the hub refuses it when disk space is scarce", rt.name())
		}
	}
	if n < 10 {
		t.Errorf("only %d routes end or remove something", n)
	}
}

// Each rate limit is used, either by a row of the route table or inside a handler.
func TestRatesOfRoutesExist(t *testing.T) {
	rates := DefaultRates()
	for _, rt := range routes {
		if _, ok := rates[rt.rate]; !ok && rt.rate != unlimited && rt.rate != inHandler {
			t.Errorf("%s: there is no rate %q", rt.name(), rt.rate)
		}
		if rt.rate == accountRate || rt.rate == bootRate && rt.who != unmeasuredDevice {
			t.Errorf("%s: the rate %q is not one of a network", rt.name(), rt.rate)
		}
	}
}
