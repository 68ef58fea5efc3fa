package api_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"

	"gangway/hub/api"
	"gangway/internal/fleet"
	"gangway/tcg"
	"gangway/wire"
)

// The tests in this file are about input that two parsers could read differently. The hub refuses
// such input. If it ignores a part of the input, a note says which part.

// The hub refuses JSON bodies that two parsers could read differently, for example because a name
// occurs twice.
func TestBodiesThatReadersDifferInAreRefused(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	certs := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	ada, device := s.person(t, "ada"), s.asDevice(t, s.victim, certs)
	id := s.deviceOf(t, s.victim)
	other := s.device(t)
	first := string(must(json.Marshal(other.EnrollRequest()))(t))
	second := string(must(other.Registration(s.pan, s.enrolled(t, other).Keys, fleet.RegistrationChange{}))(t))
	twice := func(body, name, value string) string {
		return strings.Replace(body, "{", `{"`+name+`":"`+value+`",`, 1)
	}
	for _, c := range []struct {
		p            *person
		method, path string
		body         string
	}{
		{s.person(t, ""), "POST", "/enroll/request", twice(first, "ak-name", "00")},
		{s.person(t, ""), "POST", "/enroll/request", twice(first, "AK-Name", "00")},
		{s.person(t, ""), "POST", "/enroll/request", strings.Replace(first, `"ek-cert"`, `"EK-CERT"`, 1)},
		{s.person(t, ""), "POST", "/enroll/request", first + first},
		{s.person(t, ""), "POST", "/register", twice(second, "device-name", id)},
		{s.person(t, ""), "POST", "/register", twice(second, "Device-Name", id)},
		{s.person(t, ""), "POST", "/devices/register", strings.Replace(second, `"hub-name"`, `"Hub-Name"`, 1)},
		{s.person(t, ""), "POST", "/devices/register", twice(second, "pr\\u006fof", "AAAA")},
		{s.person(t, ""), "POST", "/auth/login", `{"username":"ada","Username":"mallory","password":"x"}`},
		{s.person(t, ""), "POST", "/auth/signature/verify", `{"owner":"a","owner":"b"}`},
		{ada, "POST", "/devices/tokens", `{"max-uses":1,"max-uses":0}`},
		{ada, "POST", "/devices/tokens", `{"Without-TPM":true}`},
		{ada, "PATCH", "/devices/" + id + "/user-meta", `{"a":1,"a":2}`},
		{ada, "PATCH", "/devices/" + id + "/user-meta", `{"a":` + strings.Repeat("[", 9999) + strings.Repeat("]", 9999) + `}`},
		{ada, "PUT", "/policy/ek-list", `[{"serial":"01","Serial":"02"}]`},
		{device, "PATCH", "/device/meta", `{"a":{"b":1,"b":2}}`},
		{device, "POST", "/device/boot", `{"nonce":"","Nonce":""}`},
		{device, "POST", "/onboard/activate", `{"proof":"AAAA","proof":"BBBB"}`},
		{device, "POST", "/logs", `[{"msg":"a","msg":"b"}]`},
		{device, "POST", "/objects/", `{"sha256sum":"","SHA256SUM":""}`},
		{ada, "POST", "/trails/" + id + "/steps", `{"rev":1,"rev":2,"state":{` + systemSpec + `}}`},
	} {
		status, body := c.p.do(c.method, c.path, c.body)
		var p api.Problem
		if err := json.Unmarshal(body, &p); err != nil || status != 400 || p.Message == "" || p.Hint == "" {
			t.Errorf("%s %s %.80s: %d %s", c.method, c.path, c.body, status, body)
		}
	}
	// The hub ignores a field with an unknown name.
	status, body := s.person(t, "").do("POST", "/register", twice(second, "Unknown", "x"))
	if status != 200 {
		t.Errorf("%d %s", status, body)
	}
	if n := len(s.Devices(t, s.Owner)); n != 2 {
		t.Errorf("%d devices", n)
	}
}

// Fields of the TCG-CSR-IDEVID that the hub does not read must be empty.
func TestRejectsCSRFieldsThatMustBeEmpty(t *testing.T) {
	t.Parallel()
	for name, fill := range map[string]func(*tcg.CSR){
		"bootEvntLog":            func(c *tcg.CSR) { c.EventLog = []byte("log") },
		"atCreateTkt":            func(c *tcg.CSR) { c.AtCreateTkt = []byte{0} },
		"atCertifyInfo":          func(c *tcg.CSR) { c.AtCertifyInfo = bytes.Clone(c.SgnCertifyInfo) },
		"atCertifyInfoSignature": func(c *tcg.CSR) { c.AtCertifySig = bytes.Clone(c.SgnCertifySig) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			a := s.post(t, must(s.victim.Request(s.tok, fleet.RequestChange{CSR: fill}))(t))
			refused(t, a, 400, "csr-malformed")
			if !strings.Contains(string(a.Body), name+" ") {
				t.Errorf("the answer does not name the field: %s", a.Body)
			}
			s.boundNothing(t)
		})
	}
}

// If an entry of a certificate chain is not a certificate, the hub refuses the request. If it is a
// certificate that cannot be parsed, the hub ignores it and adds a note.
func TestChainEntriesDoNotVanish(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	link := s.maker.Intermediate.Raw
	unknown := bytes.Clone(link) // the outer structure of a certificate that no parser accepts
	i := bytes.Index(unknown, []byte{0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01})
	unknown[i] = 0x05
	text := func(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
	block := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	for name, entry := range map[string][]byte{
		"text": []byte("not a certificate"), "two in one": append(bytes.Clone(link), link...), "padded": append(bytes.Clone(link), 0), "cut short": link[:len(link)-1],
		"PEM": []byte(block("CERTIFICATE", link)), "another structure": {0x30, 0x03, 0x02, 0x01, 0x01}, "an EK's public area": s.victim.EK.Public.Raw,
	} {
		d := *s.victim
		d.Chain = [][]byte{link, entry}
		a := s.post(t, must(d.Request(s.tok, fleet.RequestChange{}))(t))
		refused(t, a, 400, "ca-data-malformed")
		if !strings.Contains(string(a.Body), "Entry 2 ") {
			t.Errorf("%s: %s", name, a.Body)
		}
	}
	for name, chain := range map[string][]string{
		"text": {text([]byte("not a certificate"))}, "two in one": {text(append(bytes.Clone(link), link...))}, "two in PEM": {block("CERTIFICATE", link) + block("CERTIFICATE", link)},
		"words behind it": {block("CERTIFICATE", link) + "the end"}, "a key": {block("PUBLIC KEY", link)}, "empty": {""}, "nonsense": {"?"},
	} {
		in := s.victim.EnrollRequest()
		in.EKChain = chain
		a := s.send(t, "/enroll/request", must(json.Marshal(in))(t))
		if a.Status != 400 || a.Code() != "ek-chain-malformed" {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
	for name, cert := range map[string]string{"a key": block("PUBLIC KEY", s.victim.EKCert), "two": block("CERTIFICATE", s.victim.EKCert) + block("CERTIFICATE", link)} {
		in := s.victim.EnrollRequest()
		in.EKCert = cert
		if a := s.send(t, "/enroll/request", must(json.Marshal(in))(t)); a.Status != 400 || a.Code() != "ek-certificate-malformed" {
			t.Errorf("ek-cert, %s: %d %s", name, a.Status, a.Body)
		}
	}
	s.boundNothing(t)

	d := *s.victim
	d.Chain = [][]byte{unknown, link}
	if !tcg.IsCertificate(unknown) {
		t.Fatal("the odd certificate is not taken for one")
	}
	must(d.Onboard(t.Context(), s.client, s.tok))(t)
	e := want[api.EvidenceView](s.person(t, "ada"), "GET", "/devices/"+s.deviceOf(t, &d)+"/evidence", nil, 200)
	if notes := strings.Join(e.Verdict.Notes, "\n"); strings.Count(notes, "certificate 1 of the request's chain cannot be parsed and was ignored") != 1 {
		t.Errorf("notes: %q", notes)
	}
}

// A token file that two parsers could read differently is refused.
func TestTokenFileThatReadersDifferInIsRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	good := string(must(json.Marshal(s.tok))(t))
	must(wire.ParseTokenFile([]byte(good)))(t)
	must(wire.ParseTokenFile([]byte(strings.Replace(good, "{", `{"of-pantacor":{"Hub":1},`, 1))))(t)
	for _, bad := range []string{
		strings.Replace(good, "{", `{"hub":"https://elsewhere.example",`, 1), strings.Replace(good, "{", `{"Hub":"https://elsewhere.example",`, 1),
		strings.Replace(good, `"hub-ca"`, `"HUB-CA"`, 1), good + "{}", "null",
	} {
		if f, err := wire.ParseTokenFile([]byte(bad)); err == nil {
			t.Errorf("%.60s is accepted, for %s", bad, f.Hub)
		}
	}
}
