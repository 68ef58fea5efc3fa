package tcg

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the key templates into docs/protocol.md")

// The test compares the text between these two lines of docs/protocol.md with the templates in the
// code. With the flag -update, the test writes this text.
const (
	templatesBegin = "<!-- go test ./tcg -run TemplatesOnThePage -update -->\n"
	templatesEnd   = "<!-- end of the templates -->\n"
)

// docs/protocol.md lists the key templates and policies exactly as the code has them, so that the
// author of another device needs no other source.
func TestTemplatesOnThePage(t *testing.T) {
	path := filepath.Join("..", "docs", "protocol.md")
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(doc), templatesBegin)
	had, tail, end := strings.Cut(rest, templatesEnd)
	if !ok || !end {
		t.Fatal("docs/protocol.md has no place for the key templates")
	}
	want := templatesOnThePage()
	if *update {
		if err := os.WriteFile(path, []byte(head+templatesBegin+want+templatesEnd+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if had != want {
		t.Error("docs/protocol.md does not have the code's key templates; run go test ./tcg -run TemplatesOnThePage -update")
	}
}

func templatesOnThePage() string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	list := func(title string, templates []Template) {
		say("\n%s\n\n```", title)
		for _, t := range templates {
			say("%-4s %s", t.Name, fieldsOf(&t.Public))
		}
		say("```")
	}

	say("\nThe endorsement keys, in the order in which a device looks for them:")
	say("\n| EK | key | certificate at NV | often persistent at | policy |\n|---|---|---|---|---|")
	for _, t := range EKTemplates {
		policy := "A"
		if t.PolicyBranches != nil {
			policy = "B"
		}
		say("| %s | %s, SHA-%d | %08x | %08x | %s |", t.Name, strings.TrimPrefix(t.Public.Algorithm(), "ECDSA "), 8*len(zero(t.Public.NameAlg)), t.CertificateIndex, t.Handle, policy)
	}
	list("The TPMT_PUBLIC of these endorsement keys:", EKTemplates)
	list("The IAK templates; the unique field is the text `IAK`, for ECC in both x and y:", IAKTemplates)
	list("The IDevID key templates; the unique field is the text `IDEVID`. The RSA key has no scheme, so that\nTLS can choose one:", IDevIDTemplates)

	say("\nThese are the digests of the policies and of their branches, each with its hash algorithm and its\nname:\n\n```")
	for _, alg := range []AlgID{AlgSHA256, AlgSHA384, AlgSHA512} {
		index := delegationIndex[alg]
		a := PolicySecretEndorsement(alg)
		hash := fmt.Sprintf("SHA-%d", 8*len(a))
		line := func(what string, digest []byte) { say("%s %-24s %x", hash, what, digest) }
		line("A", a)
		line("certify", policyCommandCode(alg, a, ccCertify))
		line("activate credential", policyCommandCode(alg, a, ccActivateCredential))
		line(fmt.Sprintf("delegation of EK %08x", index.ek), policyDelegation(alg, index.ek))
		line(fmt.Sprintf("of the IAK       %08x", index.iak), policyDelegation(alg, index.iak))
		line(fmt.Sprintf("of the IDevID    %08x", index.idevid), policyDelegation(alg, index.idevid))
		line("policy B of EK", policyOR(alg, EKPolicyBranches(alg)))
		line("policy of the IAK", policyOR(alg, IAKPolicyBranches(alg)))
		line("policy of the IDevID", policyOR(alg, IDevIDPolicyBranches(alg)))
	}
	say("```")
	return b.String()
}

// fieldsOf writes a TPMT_PUBLIC in hexadecimal with a space between its fields. It shortens a
// unique field that is all zeros: 00*32 means 32 zero bytes.
func fieldsOf(p *Public) string {
	raw := p.Raw
	var out []string
	take := func(n int) []byte {
		field := raw[:n]
		raw = raw[n:]
		out = append(out, hex.EncodeToString(field))
		return field
	}
	sized := func() {
		n := take(2)
		if size := int(n[0])<<8 | int(n[1]); size > 0 {
			if field := take(size); strings.Trim(string(field), "\x00") == "" {
				out[len(out)-1] = fmt.Sprintf("00*%d", size)
			}
		}
	}
	for _, n := range []int{2, 2, 4} { // type, nameAlg, attributes
		take(n)
	}
	sized() // authPolicy
	take(2) // symmetric
	if p.Symmetric != AlgNull {
		take(2) // its keyBits
		take(2) // its mode
	}
	take(2) // scheme
	if p.Scheme != AlgNull {
		take(2) // its hash
	}
	if p.Type == AlgRSA {
		take(2) // keyBits
		take(4) // exponent
		sized()
	} else {
		take(2) // curveID
		take(2) // kdf
		sized()
		sized()
	}
	if len(raw) != 0 {
		panic("a template has more fields than are known here")
	}
	return strings.Join(out, " ")
}
