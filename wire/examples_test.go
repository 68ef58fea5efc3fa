package wire_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"strings"

	"gangway/wire"
)

// The hub seals the certificates to the TPM. The device and the hub derive the keys from the
// credential secret, which only the TPM can decrypt.
func ExampleSeal() {
	secret := bytes.Repeat([]byte{0xC5}, wire.CredentialSize) // from TPM2_ActivateCredential
	request := sha256.Sum256([]byte("the TCG-CSR-IDEVID"))
	keys, err := wire.DeriveKeys(secret, request)
	if err != nil {
		fmt.Println(err)
		return
	}
	sealed, err := wire.Seal(keys, []byte("certificates in PEM"))
	if err != nil {
		fmt.Println(err)
		return
	}
	content, err := wire.Open(keys, sealed)
	fmt.Println(string(content), err)

	otherRequest, err := wire.DeriveKeys(secret, sha256.Sum256([]byte("another request")))
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = wire.Open(otherRequest, sealed)
	fmt.Println(err)
	// Output:
	// certificates in PEM <nil>
	// the sealed reply cannot be opened: it was sealed for another TPM or request, or was altered
}

// An activation proof is valid for one TLS connection and one certificate.
func ExampleActivationProof() {
	secret := bytes.Repeat([]byte{0xC5}, wire.CredentialSize)
	keys, err := wire.DeriveKeys(secret, sha256.Sum256([]byte("the TCG-CSR-IDEVID")))
	if err != nil {
		fmt.Println(err)
		return
	}
	certificate := sha256.Sum256([]byte("the IDevID certificate in DER"))
	exporter := make([]byte, wire.ExporterSize) // ConnectionState.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterSize)
	proof := wire.ActivationProof(keys, exporter, certificate)
	fmt.Println(wire.VerifyActivationProof(keys, exporter, certificate, proof))

	otherConnection := bytes.Repeat([]byte{1}, wire.ExporterSize)
	fmt.Println(wire.VerifyActivationProof(keys, otherConnection, certificate, proof))
	// Output:
	// true
	// false
}

// A device signs the ownership message with the private key that it derives from its join token.
// The hub stores only the public key.
func ExampleOwnershipMessage() {
	const tokenID, owner = "65f0c1d2e3f4a5b6c7d8e9f0", wire.AccountPRN + "0123456789abcdef01234567"
	key, err := wire.OwnershipKey([]byte("0123456789abcdefghijklmn"), tokenID)
	if err != nil {
		fmt.Println(err)
		return
	}
	hubName := strings.Repeat("5f", 32)
	idevid := append([]byte{0x00, 0x0B}, make([]byte, 32)...) // the IDevID key's TPM name
	message := wire.OwnershipMessage(hubName, owner, tokenID, idevid)
	proof := ed25519.Sign(key, message)
	fmt.Println(len(message), ed25519.Verify(key.Public().(ed25519.PublicKey), message, proof))
	// Output:
	// 187 true
}

// A machine without a join token displays a claim code. A person compares the short form of the
// code on the machine's screen with the short form on the hub's page.
func ExampleClaimCode() {
	const id = "65f0c1d2e3f4a5b6c7d8e9f0"
	key, err := wire.OwnershipKey([]byte("0123456789abcdefghijklmn"), id)
	if err != nil {
		fmt.Println(err)
		return
	}
	code, err := wire.ClaimCode(id, key.Public().(ed25519.PublicKey))
	if err != nil {
		fmt.Println(err)
		return
	}
	parsed, _, err := wire.ParseClaimCode(code)
	fmt.Println(len(code), parsed, err)
	fmt.Println(wire.ClaimWords(code))
	// Output:
	// 59 65f0c1d2e3f4a5b6c7d8e9f0 <nil>
	// WCID-WLBE-MQQ3
}

// ParseTokenFile's error names the wrong field of a token file.
func ExampleParseTokenFile() {
	_, err := wire.ParseTokenFile([]byte(`{"id": "65F0C1D2E3F4A5B6C7D8E9F0"}`))
	fmt.Println(err)
	_, err = wire.ParseTokenFile([]byte(`{"ID": "65f0c1d2e3f4a5b6c7d8e9f0"}`))
	fmt.Println(err)
	// Output:
	// join token file: "id" is not 24 lower-case hexadecimal digits
	// join token file: the name "ID" must be written "id"
}
