package policy_test

import (
	"strings"
	"testing"

	"gangway/hub/policy"
)

// Explain returns the policy in force, and the source of each setting: the default, the hub or the
// owner.
func TestExplainsWhoseSettingDecides(t *testing.T) {
	t.Parallel()
	explained := func(hub, owner *policy.Document) string {
		var lines []string
		for _, s := range policy.Explain(hub, owner) {
			lines = append(lines, s.Setting+": "+s.Words+" ("+s.From+")")
		}
		return strings.Join(lines, "\n")
	}
	for name, c := range map[string]struct {
		hub, owner string
		want       []string
	}{
		"none": {"", "", []string{
			"no_ek_certificate: A TPM without an EK certificate waits for its owner's decision. (default)",
			"expired_ek_certificate: A TPM with an expired EK certificate is accepted. (default)",
			"software_tpms: Software TPMs are refused. (default)",
		}},
		"owner tightens": {"version: 1\nexpired_ek_certificate: ask\nsoftware_tpms: [swtpm, GOOG]\n", "version: 1\nexpired_ek_certificate: refuse\nsoftware_tpms: [swtpm]\nmeasured_boot: require\n", []string{
			"A TPM with an expired EK certificate is refused. (your policy)",
			"Software TPMs are refused, except swtpm. (your policy)",
			"measured boot is expected or known. (your policy)",
		}},
		"owner cannot loosen": {"version: 1\nunknown_maker: refuse\nwithout_tpm: refuse\n", "version: 1\nunknown_maker: ask\nwithout_tpm: accept\n", []string{
			"A TPM with an EK certificate that does not chain to a trusted maker is refused. (the hub's policy)",
			"A TPM without an EK certificate is refused. (the hub's policy)",
			"Devices without a TPM are refused. (the hub's policy)",
		}},
		"rules and kinds": {"version: 1\nrules: [{maker: IFX, firmware_below: 7.85, then: refuse, reason: old}]\n", "version: 1\nek_kinds: {IFX: [L-2], '*': [H-2]}\nrules: [{then: ask}]\n", []string{
			"rule 1: TPMs of maker IFX with firmware below 7.85.0.0 are refused (reason: old). (the hub's policy)",
			"ek_kinds: All other TPMs may use EKs of these templates: H-2. (your policy)",
			"ek_kinds: TPMs of IFX may use EKs of these templates: L-2. (your policy)",
			"rule 1: All TPMs must be approved by a person. (your policy)",
		}},
	} {
		var hub, owner *policy.Document
		if c.hub != "" {
			hub = parse(t, c.hub)
		}
		if c.owner != "" {
			owner = parse(t, c.owner)
		}
		got := explained(hub, owner)
		for _, line := range c.want {
			if !strings.Contains(got, line) {
				t.Errorf("%s lacks %q:\n%s", name, line, got)
			}
		}
	}
}
