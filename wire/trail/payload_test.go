package trail_test

import (
	"strings"
	"testing"

	"gangway/wire/trail"
)

// Numbers that have the same float64 value differ in the payload, so a signature tells them apart.
func TestPayloadKeepsTheDigitsOfNumbers(t *testing.T) {
	t.Parallel()
	for number, want := range map[string]string{
		"9007199254740992": "9007199254740992", "9007199254740993": "9007199254740993",
		"1": "1", "1.0": "1", "10e-1": "1", "100": "100", "1E2": "100", "-0": "0", "0.000": "0", "-0.0e7": "0",
		"2.50": "2.5E0", "0.5": "5.0E-1", "0.0125e1": "1.25E-1", "-120e-1": "-12", "1e-400": "1.0E-400", "1.00000000000000000001": "1.00000000000000000001E0",
		"1e-99999999999999999999": "1e-99999999999999999999",
	} {
		s, err := trail.ParseState([]byte(`{"#spec":"pantavisor-service-system@1","b.json":` + number + `,"a":"` + strings.Repeat("a", 64) + `"}`))
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Payload(func(name string) bool { return name == "b.json" })
		if err != nil || string(got) != `{"b.json":`+want+`}` {
			t.Errorf("%s: %s, %v; want %s", number, got, err, want)
		}
	}
}

func TestPayloadOfAWholeState(t *testing.T) {
	t.Parallel()
	s, err := trail.ParseState([]byte(`{"b.json": {"y": [1.0, null, true], "x": "\u0007\u00e9<"}, "#spec": "pantavisor-service-system@1"}`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Payload(func(string) bool { return true })
	if want := `{"#spec":"pantavisor-service-system@1","b.json":{"x":"\u0007é<","y":[1,null,true]}}`; err != nil || string(got) != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
	if names := strings.Join(s.Names(), " "); names != "#spec b.json" || s.Value("c") != nil {
		t.Errorf("names %q", names)
	}
}
