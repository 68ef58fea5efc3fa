package api

import "testing"

// Each entry of the tables names an existing route. A mistake in an entry's name would otherwise
// make the entry useless, without an error.
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

// Each rate limit is used by a route, or inside a handler.
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
