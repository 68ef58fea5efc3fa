package wire

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gangway/tcg"
)

var update = flag.Bool("update", false, "write the worked example into docs/protocol.md")

const exampleHeading = "## 12. Worked example\n"

// The worked example in docs/protocol.md equals the results that the code computes from fixed
// inputs, so that the author of another device can check each step.
func TestWorkedExample(t *testing.T) {
	path := filepath.Join("..", "docs", "protocol.md")
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, had, ok := strings.Cut(string(doc), exampleHeading)
	if !ok {
		t.Fatal("docs/protocol.md has no worked example")
	}
	want := workedExample(t)
	if *update {
		if err := os.WriteFile(path, []byte(head+exampleHeading+want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if had != want {
		t.Error("docs/protocol.md does not have the example that the code makes; run go test ./wire -run WorkedExample -update")
	}
}

func workedExample(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	dump := func(v []byte) {
		say("\n```")
		for s := hex.EncodeToString(v); len(s) > 0; {
			n := min(len(s), 96)
			say("%s", s[:n])
			s = s[n:]
		}
		say("```\n")
	}
	must := func(v []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}

	secret := []byte("0123456789abcdefghijklmn")
	const tokenID, owner = "65f0c1d2e3f4a5b6c7d8e9f0", AccountPRN + "0123456789abcdef01234567"
	hubName := strings.Repeat("5f", 32)
	say("\nA join token has the id `%s`, the owner\n`%s` and this secret (`token` in its file:\n`%s`):", tokenID, owner, base64.StdEncoding.EncodeToString(secret))
	dump(secret)
	key, err := OwnershipKey(secret, tokenID)
	if err != nil {
		t.Fatal(err)
	}
	say("HKDF (section 3) derives this Ed25519 seed from the secret:")
	dump(key.Seed())
	say("The hub stores the public key of this seed:")
	dump(key.Public().(ed25519.PublicKey))

	name := append([]byte{0x00, 0x0B}, bytes.Repeat([]byte{0xA1}, 32)...)
	say("A device has an IDevID key with the TPM name `000b` followed by 32 bytes `a1`. The hub's name is\n`%s…` (32 bytes `5f`, in hexadecimal). To be onboarded by this hub, the device signs this\nmessage with the join token's key:", hubName[:8])
	message := OwnershipMessage(hubName, owner, tokenID, name)
	dump(message)
	proof := ed25519.Sign(key, message)
	say("This signature, the ownership proof, is:")
	dump(proof)
	data := CAData{HubName: hubName, Owner: owner, TokenID: tokenID, EKPublic: []byte("ek-public"), Proof: proof}
	caData := must(data.Encode())
	say("In this example, prodCaData has the nine bytes `ek-public` in place of the EK's public area, and no\nchain. Then prodCaData is:")
	dump(caData)

	csr := tcg.CSR{
		ProdModel: []byte("model"), ProdSerial: []byte("0001"), CAData: caData, EKCert: []byte("ek-cert"),
		AttestPub: []byte("attest-pub"), SigningPub: []byte("signing-pub"), SgnCertifyInfo: []byte("certify-info"), SgnCertifySig: []byte("certify-sig"),
	}
	request := must(csr.Encode(tcg.AlgSHA256, func([]byte) ([]byte, error) { return []byte("signature"), nil }))
	say("In this example, the request has short texts in place of the TPM's structures. The request has %d\nbytes:", len(request))
	dump(request)
	hash := sha256.Sum256(request)
	say("The SHA-256 of this request is the salt from which the wrapping key and the activation key are\nderived (section 5):")
	dump(hash[:])

	credential := bytes.Repeat([]byte{0xC5}, CredentialSize)
	keys, err := DeriveKeys(credential, hash)
	if err != nil {
		t.Fatal(err)
	}
	say("For the request of this example, and a secret of 32 bytes, each `c5`, from TPM2_ActivateCredential,\nthe wrapping key is:")
	dump(keys.Wrapping)
	say("From the same request and secret, the activation key is:")
	dump(keys.Activation)
	exporter, cert := bytes.Repeat([]byte{0xE7}, ExporterSize), sha256.Sum256([]byte("certificate"))
	say("With this activation key, an exporter of 32 bytes, each `e7`, and a certificate whose DER is the\neleven bytes `certificate`, the activation proof is:")
	dump(ActivationProof(keys, exporter, cert))

	akName := append([]byte{0, 0x0B}, bytes.Repeat([]byte{0xA2}, 32)...)
	say("In the two-step enrolment, with the same join token and IDevID key, `name` is the 68 characters\n`000ba1a1…`. Extension .2 of the CSR is the ownership proof above, or in Pantacor's form:")
	dump(OwnershipMAC(sha256.Sum256(secret), hex.EncodeToString(name)))
	steps, err := DeriveStepKeys(credential, akName)
	if err != nil {
		t.Fatal(err)
	}
	say("In the next example, the credential's secret has 32 bytes, each `c5`. The AK's name is `000b`\nfollowed by 32 bytes, each `a2`. The keys *encryption*, *mac* and *register*, in this order, are:")
	dump(slices.Concat(steps.Encryption, steps.MAC, steps.Register))
	say("For a CSR whose DER is the three bytes `csr`, with this key *register* and at the same hub, the\nfield `proof` of `POST /register` is:")
	dump(steps.Prove(hubName, []byte("csr")))
	say("In the old form, the field `proof` of `POST /register` is:")
	dump(steps.ProveUnbound([]byte("csr")))
	file := CredentialFile([]byte("blob"), []byte("secret"))
	say("A file in the format of `tpm2_makecredential`, with the text `blob` as id object and the text\n`secret` as encrypted secret, is:")
	dump(file)
	return b.String()
}
