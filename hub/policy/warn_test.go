package policy_test

import (
	"strings"
	"testing"

	"gangway/hub/policy"
)

// Warnings reports the parts of a policy that have no effect, and only those.
func TestWordsWithoutEffectAreNamed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text, hub string   // without "version: 1"; hub "-": the text is the hub's document
		want      []string // parts of the warnings, in order; nil: no warnings
	}{
		"nothing said":               {"", "-", []string{"has no settings and no rules"}},
		"a maker that nobody is":     {"rules: [{maker: XYZ, then: refuse}]", "-", []string{`Rule 1 is about the maker "XYZ", which is not a known TPM maker: the known makers are AMD, AMZN,`}},
		"a company's name":           {"rules: [{maker: Infineon, then: refuse}]", "-", []string{"did you mean IFX (Infineon)?"}},
		"letters exchanged":          {"rules: [{maker: IXF, then: ask}]", "-", []string{"did you mean IFX?"}},
		"a maker in lower case":      {"rules: [{maker: ifx, then: ask}]", "-", nil},
		"no maker":                   {"rules: [{maker: none, then: ask}]", "-", nil},
		"a maker's number":           {`rules: [{maker: "id:00001014", then: refuse}]`, "-", nil},
		"a kind's maker":             {"ek_kinds: {IFXX: [L-1]}", "-", []string{`ek_kinds names "ifxx"`}},
		"kinds of known makers":      {"ek_kinds: {IFX: [L-1], none: [L-2], swtpm: [H-3], \"*\": [L-1]}", "-", nil},
		"a chip's maker as software": {"software_tpms: [IFX]", "-", []string{"software_tpms names IFX, which has no effect: this maker's TPMs are hardware"}},
		"a spelling mistake there":   {"software_tpms: [swtmp]", "-", []string{`names "swtmp", which is neither swtpm`}},
		"software by name":           {"software_tpms: [SWTPM, goog]", "-", nil},
		"a rule that is hidden":      {"rules: [{then: ask}, {maker: IFX, then: refuse}]", "-", []string{"Rule 2 has no effect: rule 1 comes first"}},
		"hidden by lower firmware":   {`rules: [{maker: IFX, firmware_below: "7.85", then: ask}, {maker: IFX, firmware_below: "7.0", then: refuse}]`, "-", []string{"Rule 2 has no effect: rule 1 comes first"}},
		"not hidden by firmware":     {`rules: [{maker: IFX, firmware_below: "7.0", then: ask}, {maker: IFX, firmware_below: "7.85", then: refuse}]`, "-", nil},
		"an exception to a rule":     {"rules: [{maker: IFX, then: accept}, {then: ask}]", "-", nil},
		"an exception to nothing":    {"rules: [{maker: NTC, then: ask}, {maker: IFX, then: accept}]", "-", []string{"Rule 2 has no effect: a rule that accepts makes an exception"}},
		"a list that is closed":      {"rules: [{maker: NTC, then: ask}, {then: accept}]", "-", nil},
		"an owner who accepts all":   {"rules: [{then: accept}]", "", []string{"Your policy cannot loosen the hub's policy"}},
		"an exception, other maker":  {"rules: [{maker: IFX, then: accept}, {maker: NTC, then: ask}]", "-", []string{"Rule 1 has no effect"}},
		"a rule for programs":        {"rules: [{maker: GOOG, then: ask}]", "-", []string{"TPMs of GOOG are software TPMs"}},
		"programs that are let in":   {"software_tpms: [GOOG]\nrules: [{maker: GOOG, then: ask}]", "-", nil},

		"an owner's exception":       {"rules: [{maker: IFX, then: accept}]", "rules: [{maker: IFX, then: refuse}]", []string{"exception", "Rule 1 (accept) has no effect: rule 1 of the hub's policy says refuse"}},
		"an owner's question":        {"rules: [{maker: IFX, then: ask}]", "rules: [{then: refuse}]", []string{"Rule 1 (ask) has no effect: rule 1 of the hub's policy says refuse"}},
		"an owner's stricter rule":   {"rules: [{maker: IFX, then: refuse}]", "rules: [{then: ask}]", nil},
		"a rule on other TPMs":       {"rules: [{maker: NTC, then: ask}]", "rules: [{maker: IFX, then: refuse}]", nil},
		"a hub's rule for some only": {"rules: [{maker: IFX, then: ask}]", `rules: [{maker: IFX, firmware_below: "7.85", then: refuse}]`, nil},
		"looser words": {"no_ek_certificate: ask\nunknown_maker: ask\nexpired_ek_certificate: accept\nunlisted_ek: ask\nwithout_tpm: accept\nmeasured_boot: report\nsoftware_tpms: [swtpm]",
			"no_ek_certificate: refuse\nunknown_maker: refuse\nexpired_ek_certificate: ask\nunlisted_ek: refuse\nmeasured_boot: require",
			[]string{"no_ek_certificate: ask", "unknown_maker: ask", "expired_ek_certificate: accept", "unlisted_ek: ask", "without_tpm: accept", "measured_boot: report", `software_tpms: "swtpm"`}},
		"looser than no policy":    {"without_tpm: accept\nsoftware_tpms: [swtpm]", "", []string{"without_tpm: accept", "software_tpms"}},
		"as strict, or stricter":   {"no_ek_certificate: refuse\nunknown_maker: ask\nsoftware_tpms: [swtpm]\nwithout_tpm: refuse\nmeasured_boot: require", "software_tpms: [swtpm, GOOG]\nwithout_tpm: accept", nil},
		"unlisted, hub is silent":  {"unlisted_ek: accept", "unknown_maker: refuse", nil},
		"kinds that the hub bars":  {"ek_kinds: {IFX: [L-1, L-2]}", "ek_kinds: {IFX: [L-1]}", []string{"ek_kinds: L-2 for ifx has no effect: the hub's policy allows only L-1"}},
		"fewer kinds than the hub": {"ek_kinds: {IFX: [L-1]}", "ek_kinds: {IFX: [L-1, L-2]}", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			read := func(text string) *policy.Document {
				d, err := policy.Parse([]byte("version: 1\n" + text))
				if err != nil {
					t.Fatal(err)
				}
				return d
			}
			var hub *policy.Document
			if c.hub != "" && c.hub != "-" {
				hub = read(c.hub)
			}
			got := policy.Warnings(read(c.text), hub, c.hub != "-")
			if len(got) != len(c.want) {
				t.Fatalf("%d warnings, want %d:\n%s", len(got), len(c.want), strings.Join(got, "\n"))
			}
			for i, want := range c.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("%q, want %q", got[i], want)
				}
			}
		})
	}
}

// The error for an unknown name lists the known names.
func TestUnknownWordIsNamedWithTheKnownOnes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"version: 1\nno_ek_certificat: ask":                      "the names in a policy are version, no_ek_certificate, unknown_maker",
		"version: 1\nrules: [{vendor: IFX, then: ask}]":          "the names in a rule are maker, model, firmware_below, then, reason",
		"version: 1\nunknown_maker: reject":                      "is not 'accept', 'ask' or 'refuse'",
		"version: 1\nrules: [{maker: IFX, then: allow}]":         "is not 'accept', 'ask' or 'refuse'",
		"version: 1\nmeasured_boot: enforce":                     "'report' or 'require'",
		"version: 1\nek_kinds: {IFX: [L9]}":                      "not one of H-1",
		"version: 1\nrules: [{maker: IFX, firmware_below: new}]": "up to four numbers",
	} {
		if _, err := policy.Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
