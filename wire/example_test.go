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

// The code computes the worked example in docs/protocol.md from fixed inputs, so that the author of
// another device can check each step.
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
	say("\nA token with the id `%s`, of owner `%s`, has the secret (`token` in its file: `%s`)", tokenID, owner, base64.StdEncoding.EncodeToString(secret))
	dump(secret)
	key, err := OwnershipKey(secret, tokenID)
	if err != nil {
		t.Fatal(err)
	}
	say("from which HKDF makes the Ed25519 seed")
	dump(key.Seed())
	say("and so the public key that the hub keeps:")
	dump(key.Public().(ed25519.PublicKey))

	name := append([]byte{0x00, 0x0B}, bytes.Repeat([]byte{0xA1}, 32)...)
	say("A device whose IDevID key has the TPM name `000b` followed by 32 bytes `a1`, at the hub `%s…` (32 bytes `5f` in hexadecimal), signs the message", hubName[:8])
	message := OwnershipMessage(hubName, owner, tokenID, name)
	dump(message)
	proof := ed25519.Sign(key, message)
	say("and the proof is")
	dump(proof)
	data := CAData{HubName: hubName, Owner: owner, TokenID: tokenID, EKPublic: []byte("ek-public"), Proof: proof}
	caData := must(data.Encode())
	say("With the EK's public area standing as the nine bytes `ek-public` and no chain, prodCaData is")
	dump(caData)

	csr := tcg.CSR{
		ProdModel: []byte("model"), ProdSerial: []byte("0001"), CAData: caData, EKCert: []byte("ek-cert"),
		AttestPub: []byte("attest-pub"), SigningPub: []byte("signing-pub"), SgnCertifyInfo: []byte("certify-info"), SgnCertifySig: []byte("certify-sig"),
	}
	request := must(csr.Encode(tcg.AlgSHA256, func([]byte) ([]byte, error) { return []byte("signature"), nil }))
	say("and, with texts standing for the structures of the TPM, the request (%d bytes) is", len(request))
	dump(request)
	hash := sha256.Sum256(request)
	say("whose SHA-256, the salt of what follows, is")
	dump(hash[:])

	credential := bytes.Repeat([]byte{0xC5}, CredentialSize)
	keys, err := DeriveKeys(credential, hash)
	if err != nil {
		t.Fatal(err)
	}
	say("If TPM2_ActivateCredential gives 32 bytes `c5`, the wrapping key is")
	dump(keys.Wrapping)
	say("and the activation key")
	dump(keys.Activation)
	exporter, cert := bytes.Repeat([]byte{0xE7}, ExporterSize), sha256.Sum256([]byte("certificate"))
	say("On a TLS connection whose exporter is 32 bytes `e7`, for a certificate whose DER is the eleven bytes `certificate`, the activation proof is")
	dump(ActivationProof(keys, exporter, cert))

	akName := append([]byte{0, 0x0B}, bytes.Repeat([]byte{0xA2}, 32)...)
	say("In the two steps, with the same token and key, `name` is the 68 characters `000ba1a1…`, extension .2 is the proof above, and in Pantacor's form")
	dump(OwnershipMAC(sha256.Sum256(secret), hex.EncodeToString(name)))
	steps, err := DeriveStepKeys(credential, akName)
	if err != nil {
		t.Fatal(err)
	}
	say("If the credential holds 32 bytes `c5` for an AK of the name `000b` followed by 32 bytes `a2`, the keys encryption, mac and register are")
	dump(slices.Concat(steps.Encryption, steps.MAC, steps.Register))
	say("and the proof for a CSR whose DER is the three bytes `csr`, at the same hub, is")
	dump(steps.Prove(hubName, []byte("csr")))
	say("and of the old form")
	dump(steps.ProveUnbound([]byte("csr")))
	file := CredentialFile([]byte("blob"), []byte("secret"))
	say("A credential file of the id object `blob` and the encrypted secret `secret`, both as text, is")
	dump(file)
	return b.String()
}
