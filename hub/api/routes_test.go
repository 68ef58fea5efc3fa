package api

import "testing"

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
