package tcg

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// The policy digests equal the digests in the specifications: DevID, table 19, and EK profile, B.6.
func TestPoliciesEqualThePublishedDigests(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"IAK SHA-256", policyOR(AlgSHA256, IAKPolicyBranches(AlgSHA256)), "5437182326e414fca797d5f174615a1641f61255797c3a2b22c21d120b2d1e07"},
		{"IAK SHA-384", policyOR(AlgSHA384, IAKPolicyBranches(AlgSHA384)), "129d94ebf84556652c6eef43bbb757512ac87e52be7b349ca6ce4d826f749fcf672f51716c5cbb605f313bf345aab312"},
		{"IAK SHA-512", policyOR(AlgSHA512, IAKPolicyBranches(AlgSHA512)), "8060d1fb31716a29e48a6e5fece088bcfc1b278fc162255e81c3eca3544cd44af94410c3715d561cccd9e39a6cb2646d43535bb54ea88710deb5f7836bd9b586"},
		{"IDevID SHA-256", policyOR(AlgSHA256, IDevIDPolicyBranches(AlgSHA256)), "ad6b3a2284fd698a0710bf5cc1b9bdf15e2532e3f601fa4b93a6a8fa8de579ea"},
		{"IDevID SHA-384", policyOR(AlgSHA384, IDevIDPolicyBranches(AlgSHA384)), "4db1aa836d0b5615df6ee53a40ef70c61c217f4303d44695925972bc927006cfa5cbdf6dc18c4dbe329b2f1542c3dd33"},
		{"IDevID SHA-512", policyOR(AlgSHA512, IDevIDPolicyBranches(AlgSHA512)), "7dd7500fd6c1b94f97a6af910da147301ef28f662fee06f225a4ccadda3b4e6b38e66b2f3ad5dee1a0503cd2daedb1e68cfe4f84b03a8cd22bb6a976f071a72f"},
		{"EK policy A SHA-256", PolicySecretEndorsement(AlgSHA256), "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"},
		{"EK policy B SHA-256", policyOR(AlgSHA256, EKPolicyBranches(AlgSHA256)), "ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0"},
		{"EK policy A SHA-384", PolicySecretEndorsement(AlgSHA384), "8bbf2266537c171cb56e403c4dc1d4b64f432611dc386e6f532050c3278c930e143e8bb1133824ccb431053871c6db53"},
		{"EK policy C SHA-384", policyDelegation(AlgSHA384, 0x01C07F02), "d6032ce61f2fb3c240eb3cf6a33237ef2b6a16f4293c22b455e261cffd217ad5b4947c2d73e63005eed2dc2b3593d165"},
		{"EK policy C SHA-512", policyDelegation(AlgSHA512, 0x01C07F03), "589ee1e146544716e8deafe6db247b01b81e9f9c7dd16b814aa159138749105fba5388dd1dea702f35240c184933121e2c61b8f50d3ef91393a49a38c3f73fc8"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

// go-tpm's own marshalling code encodes the templates of this package to the same bytes. go-tpm's
// two low-range EK templates equal the low-range EK templates of this package.
func TestTemplatesAgreeWithGoTPM(t *testing.T) {
	t.Parallel()
	for _, set := range [][]Template{EKTemplates, IAKTemplates, IDevIDTemplates} {
		for _, tmpl := range set {
			pub, err := tpm2.Unmarshal[tpm2.TPMTPublic](tmpl.Public.Raw)
			if err != nil {
				t.Fatalf("%s: %v", tmpl.Name, err)
			}
			if again := tpm2.Marshal(pub); !bytes.Equal(again, tmpl.Public.Raw) {
				t.Errorf("%s: go-tpm marshals it differently: %.100x, want %.100x", tmpl.Name, again, tmpl.Public.Raw)
			}
			parsed, err := ParsePublic(tmpl.Public.Raw)
			if err != nil {
				t.Fatalf("%s: %v", tmpl.Name, err)
			}
			if !tmpl.Matches(parsed) {
				t.Errorf("%s does not match itself", tmpl.Name)
			}
			want, err := tpm2.ObjectName(pub)
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := parsed.Name(); !bytes.Equal(got, want.Buffer) {
				t.Errorf("%s: name %x, go-tpm computes %x", tmpl.Name, got, want.Buffer)
			}
		}
	}
	for name, want := range map[string]tpm2.TPMTPublic{"L-1": tpm2.RSAEKTemplate, "L-2": tpm2.ECCEKTemplate} {
		for _, tmpl := range EKTemplates {
			if tmpl.Name == name && !bytes.Equal(tmpl.Public.Raw, tpm2.Marshal(want)) {
				t.Errorf("%s differs from go-tpm's", name)
			}
		}
	}
}
