package policy_test

import (
	"strings"
	"testing"

	"gangway/hub/evidence"
	"gangway/hub/policy"
)

func parse(t testing.TB, text string) *policy.Document {
	t.Helper()
	d, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestReadsADocument(t *testing.T) {
	t.Parallel()
	d := parse(t, `
version: 1
no_ek_certificate: refuse
expired_ek_certificate: ask
software_tpms: [swtpm]
measured_boot: require
rules:
  - {maker: IFX, model: "SLB 9670*", firmware_below: 7.80, then: refuse, reason: old}
  - {then: accept}
`)
	e := policy.Merge(d, nil)
	p := e.Evidence
	if p.NoCertificate != evidence.Refuse || p.ExpiredEK != evidence.Ask || p.UnknownMaker != evidence.Ask || p.Unlisted != evidence.Refuse || !e.RequireBoot {
		t.Errorf("%+v", e)
	}
	// The version 7.80 consists of the numbers 7 and 80, although YAML would read it as a decimal
	// number.
	if r := p.Layers[0].Rules; len(r) != 2 || r[0].FirmwareBelow != 7<<48|80<<32 || r[0].FirmwareBelow.String() != "7.80.0.0" || r[1].Then != evidence.Accept {
		t.Errorf("%+v", r)
	}
	if p.Layers[0].Name != "the hub's policy" {
		t.Errorf("%q", p.Layers[0].Name)
	}
}

func TestReadsEKKinds(t *testing.T) {
	t.Parallel()
	p := policy.Merge(parse(t, "version: 1\nek_kinds:\n  IFX: [L-1, H-3]\n  none: [L-2]\n  '*': [H-2]\n"), parse(t, `{"version": 1, "ek_kinds": ["L-1"]}`)).Evidence
	if len(p.EKKinds) != 2 || p.EKKinds[0].Name != "the hub's policy" || p.EKKinds[1].Name != "the owner's policy" {
		t.Fatalf("%+v", p.EKKinds)
	}
	if of := p.EKKinds[0].Of; len(of) != 3 || len(of["ifx"]) != 2 || of["none"][0] != "L-2" || of["*"][0] != "H-2" || p.EKKinds[1].Of["*"][0] != "L-1" {
		t.Errorf("%+v", p.EKKinds)
	}
}

// A policy can be JSON, because JSON is also YAML.
func TestReadsJSON(t *testing.T) {
	t.Parallel()
	d := parse(t, `{"version": 1, "unknown_maker": "refuse", "rules": [{"maker": "STM", "then": "accept"}]}`)
	if policy.Merge(nil, d).Evidence.UnknownMaker != evidence.Refuse {
		t.Error("unknown_maker is lost")
	}
}

func TestRefusesADocumentWithAMistake(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, says string }{
		{"", "empty"},
		{"# nothing\n", "empty"},
		{"rules: []\n", "version is 0"},
		{"version: 2\n", "version is 2"},
		{"version: 1\nsoftware_tmps: [swtpm]\n", "line 2: field software_tmps not found"},
		{"version: 1\nrules: [{maker: IFX, modle: x, then: ask}]\n", "modle"},
		{"version: 1\nrules: [{maker: IFX}]\n", "rule 1 has no 'then'"},
		{"version: 1\nrules: [{then: perhaps}]\n", `"perhaps" is not 'accept', 'ask' or 'refuse'`},
		{"version: 1\nrules: [{then: [ask]}]\n", "is not 'accept', 'ask' or 'refuse'"},
		{"version: 1\nno_ek_certificate: accept\n", "only a person can vouch"},
		{"version: 1\nunknown_maker: accept\n", "anyone can claim to be an unknown maker"},
		{"version: 1\nmeasured_boot: maybe\n", "'report' or 'require'"},
		{"version: 1\nrules: [{firmware_below: 1.2.3.4.5, then: ask}]\n", "1.2.3.4.5"},
		{"version: 1\nrules: [{firmware_below: 70000, then: ask}]\n", "70000"},
		{"version: 1\nrules: [{firmware_below: x, then: ask}]\n", `"x"`},
		{"version: 1\nrules: [{firmware_below: 0, then: ask}]\n", `"0"`},
		{"version: 1\nrules: [{model: '[', then: ask}]\n", "is not a valid pattern"},
		{"version: 1\nsoftware_tpms: ['']\n", "is not a maker or model"},
		{"version: 1\nek_kinds: {IFX: [L-1, L-9]}\n", `"L-9" is not one of H-1, H-2, H-3, H-4, H-6, H-7, L-1, L-2`},
		{"version: 1\nek_kinds: {IFX: []}\n", "lists no kind"},
		{"version: 1\nek_kinds: {IFX: [L-1], ifx: [L-2]}\n", "twice"},
		{"version: 1\nek_kinds: {'': [L-1]}\n", "empty name"},
		{"version: 1\nek_kinds: []\n", "lists no kind"},
		{"version: 1\nek_kinds: L-1\n", "line 2"},
		{"version: 1\nek_kinds: {IFX: {L-1: x}}\n", "line 2"},
		{"version: 1\n---\nversion: 1\n", "more than one"},
		{"version: 1\nrules:\n" + strings.Repeat("  - {then: ask}\n", policy.MaxRules+1), "at most 500"},
		{"# " + strings.Repeat("x", policy.MaxSize), "at most 65536"},
		{"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nversion: 1\n", "not found"},
		{"\xff\xfe", "policy"},
	} {
		_, err := policy.Parse([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.60q: error %v, which was to say %q", c.text, err, c.says)
		}
	}
}

func TestOwnersPolicyOnlyTightens(t *testing.T) {
	t.Parallel()
	const strict = "version: 1\nno_ek_certificate: refuse\nunknown_maker: refuse\nexpired_ek_certificate: refuse\nunlisted_ek: refuse\nsoftware_tpms: []\nmeasured_boot: require\n"
	const loose = "version: 1\nno_ek_certificate: ask\nunknown_maker: ask\nexpired_ek_certificate: accept\nunlisted_ek: accept\nsoftware_tpms: [swtpm, GOOG]\nmeasured_boot: report\n"
	for _, c := range []struct{ hub, owner string }{{strict, loose}, {loose, strict}} {
		e := policy.Merge(parse(t, c.hub), parse(t, c.owner))
		p := e.Evidence
		if p.NoCertificate != evidence.Refuse || p.UnknownMaker != evidence.Refuse || p.ExpiredEK != evidence.Refuse || p.Unlisted != evidence.Refuse || len(p.Software) != 0 || !e.RequireBoot {
			t.Errorf("%+v", e)
		}
	}
	p := policy.Merge(parse(t, "version: 1\nsoftware_tpms: [swtpm, GOOG]\n"), parse(t, "version: 1\nsoftware_tpms: [Swtpm, VMW]\n")).Evidence
	if len(p.Software) != 1 || p.Software[0] != "swtpm" {
		t.Errorf("software TPMs %q", p.Software)
	}
	// The defaults apply to settings that neither policy has.
	if p := policy.Merge(nil, nil).Evidence; p.NoCertificate != evidence.Ask || p.ExpiredEK != evidence.Accept || p.Unlisted != evidence.Refuse {
		t.Errorf("default: %+v", p)
	}
}

func TestReadsEKLists(t *testing.T) {
	t.Parallel()
	hash := strings.Repeat("ab", 32)
	for _, text := range []string{
		"ek_sha256,note\n" + hash + ",pallet 7\n",
		"\xef\xbb\xbfNote;Serial;EK_SHA256\npallet 7;;" + strings.ToUpper(hash) + "\n",
		"# bought in May\n" + strings.TrimSuffix(strings.Repeat("ab:", 32), ":") + ",pallet 7\n",
		`[{"ek_sha256": "` + hash + `", "note": "pallet 7"}]`,
		`["` + hash + `"]`,
	} {
		l, err := policy.ParseEKList([]byte(text))
		if err != nil || len(l) != 1 || l[0].Key == nil || l[0].Key[0] != 0xab {
			t.Errorf("%q: %v, %v", text, l, err)
		}
	}
	for _, text := range []string{"serial\n00:0f:a2\n", "0xFA2\n", `[{"serial": "fa2"}]`} {
		l, err := policy.ParseEKList([]byte(text))
		if err != nil || len(l) != 1 || l[0].Key != nil || string(l[0].Cert) != "\x0f\xa2" {
			t.Errorf("%q: %v, %v", text, l, err)
		}
	}
}

// A TPM of an unknown maker does not get a better verdict by leaving out its certificate, unless
// the policy has the setting no_ek_certificate.
func TestMissingCertificateFaresNoBetterThanAnUnknownMaker(t *testing.T) {
	t.Parallel()
	const unknown, explicit = "version: 1\nunknown_maker: refuse\n", "version: 1\nunknown_maker: refuse\nno_ek_certificate: ask\n"
	for _, c := range []struct {
		hub, owner string
		want       evidence.Action
	}{
		{unknown, "version: 1\n", evidence.Refuse},
		{"version: 1\n", unknown, evidence.Refuse},
		{explicit, "version: 1\n", evidence.Ask},
		{explicit, unknown, evidence.Refuse},
		{"version: 1\n", explicit, evidence.Ask},
		{"version: 1\nno_ek_certificate: refuse\n", explicit, evidence.Refuse},
		{"version: 1\nunknown_maker: ask\n", "version: 1\n", evidence.Ask},
	} {
		if got := policy.Merge(parse(t, c.hub), parse(t, c.owner)).Evidence.NoCertificate; got != c.want {
			t.Errorf("%q, %q: %v, want %v", c.hub, c.owner, got, c.want)
		}
	}
}

// An entry of an EK list can require the TPM to have an EK certificate.
func TestReadsAnEKListsWordAboutTheCertificate(t *testing.T) {
	t.Parallel()
	hash := strings.Repeat("ab", 32)
	for text, required := range map[string]bool{
		"ek_sha256,certificate\n" + hash + ",required\n":               true,
		"certificate,ek_sha256,note\nRequired," + hash + ",pallet 7\n": true,
		"ek_sha256,certificate\n" + hash + ",\n":                       false,
		`[{"ek_sha256": "` + hash + `", "certificate": "required"}]`:   true,
		`[{"serial": "0f", "certificate": "required"}]`:                true,
	} {
		l, err := policy.ParseEKList([]byte(text))
		if err != nil || len(l) != 1 || l[0].CertificateRequired != required || (policy.NewListEntry(l[0]).Certificate == "required") != required {
			t.Errorf("%q: %+v, %v", text, l, err)
		}
	}
}

func TestRefusesAnEKListWithAMistake(t *testing.T) {
	t.Parallel()
	hash := strings.Repeat("ab", 32)
	for _, c := range []struct{ text, says string }{
		{"", "empty"}, {"ek_sha256,note\n", "empty"}, {"[]", "empty"},
		{"ek_sha256\n" + hash[1:] + "\n", "entry 1"},
		{"ek_sha256\n" + hash + "\nnonsense\n", "entry 2"},
		{"serial\n\"\"\n", "neither"},
		{"serial\n0\n", "not a hexadecimal serial number"},
		{"serial\n" + strings.Repeat("ab", 65) + "\n", "not a hexadecimal serial number"},
		{`[{"ek": "` + hash + `"}]`, "entry 1"},
		{"ek_sha256,certificate\n" + hash + ",maybe\n", "required or empty"},
		{`[1]`, "entry 1"}, {`[`, "EK list"}, {"\"a\n", "EK list"},
		{`[{"ek_sha256": "` + hash + `", "note": "` + strings.Repeat("x", 300) + `"}]`, "200 characters"},
	} {
		_, err := policy.ParseEKList([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.60q: error %v, which was to say %q", c.text, err, c.says)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("version: 1\nrules: [{maker: IFX, firmware_below: 7.85, then: refuse}]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := policy.Parse(text)
		if err == nil {
			policy.Merge(d, d)
		}
	})
}

func FuzzParseEKList(f *testing.F) {
	f.Add([]byte("ek_sha256,serial,note\n,0f,x\n"))
	f.Add([]byte(`[{"serial": "0f"}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := policy.ParseEKList(text)
		if err != nil {
			return
		}
		for _, l := range list {
			if l.Key == nil && (len(l.Cert) == 0 || l.Cert[0] == 0) {
				t.Fatalf("%x", l.Cert)
			}
		}
	})
}

// If the hub's policy and the owner's policy both name a part of the boot, the stricter state
// applies.
func TestBootPartsAreMergedToTheStricter(t *testing.T) {
	t.Parallel()
	parse := func(boot string) *policy.Document {
		d, err := policy.Parse([]byte("version: 1\nmeasured_boot: " + boot + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, c := range []struct {
		hub, owner, want string
		require          bool
	}{
		{"report", "{system: expected}", "system expected", false},
		{"{system: expected, keys: known}", "{system: known, firmware: known}", "firmware known, keys known, system expected", false},
		{"require", "{system: expected}", "system expected", true},
		{"{boot-path: known}", "require", "boot-path known", true},
		{"{rest: known}", "report", "rest known", false},
	} {
		e := policy.Merge(parse(c.hub), parse(c.owner))
		if got := policy.BootPartWords(e.BootParts); got != c.want || e.RequireBoot != c.require {
			t.Errorf("%s, then %s: %s, %v", c.hub, c.owner, got, e.RequireBoot)
		}
	}
	for _, bad := range []string{"{}", "{pcr: known}", "{system: changed}", "{system: known, system: expected}", "[system]", "{system: [known]}", "always", "{firmware-code: known}"} {
		if _, err := policy.Parse([]byte("version: 1\nmeasured_boot: " + bad + "\n")); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}
