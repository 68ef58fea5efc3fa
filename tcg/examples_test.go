package tcg_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"gangway/internal/fleet"
	"gangway/tcg"
)

// The EK certificate of a real TPM contains the TPM's maker, model and version. This certificate
// deviates from the EK profile.
func ExampleParseEKCertificate() {
	nv, err := os.ReadFile(filepath.Join("..", "internal", "ekcerts", "testdata", "048beb2ada34b6b64395e730453c3731908607810b6cb2ed88d10b50ac4dbdaf.der"))
	if err != nil {
		fmt.Println(err)
		return
	}
	e, err := tcg.ParseEKCertificate(nv)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(e.Manufacturer, e.Model, e.Version)
	fmt.Println(strings.Join(e.Quirks, "\n"))
	// Output:
	// IFX SLB9660xx1.2 id:0428
	// key of type id-RSAES-OAEP
	// signed with SHA-1
	// no key usage
	// no extended key usage for endorsement keys
}

// A device encodes its request for certificates, and the hub parses it.
func ExampleCSR_Encode() {
	csr := tcg.CSR{
		ProdModel: []byte("model"), ProdSerial: []byte("0001"), CAData: []byte("wire.CAData"), EKCert: []byte("certificate"),
		AttestPub: []byte("IAK"), SigningPub: []byte("IDevID key"), SgnCertifyInfo: []byte("TPMS_ATTEST"), SgnCertifySig: []byte("TPMT_SIGNATURE"),
	}
	request, err := csr.Encode(tcg.AlgSHA256, func(contents []byte) ([]byte, error) {
		return []byte("TPMT_SIGNATURE by the IDevID key"), nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	parsed, err := tcg.ParseCSR(request)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s %s %s\n", parsed.ProdModel, parsed.ProdSerial, parsed.EKCert)

	request[len(request)-100]++ // in the contents
	_, err = tcg.ParseCSR(request)
	fmt.Println(err)
	// Output:
	// model 0001 certificate
	// tcg: TCG-CSR-IDEVID: its hash does not match its contents
}

// Match finds the template that a key was made from.
func ExampleMatch() {
	key, err := fleet.NewKey(tcg.IAKTemplates[1], nil) // a key of an emulated TPM
	if err != nil {
		fmt.Println(err)
		return
	}
	public, err := tcg.ParsePublic(key.Public.Raw)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(tcg.Match(tcg.IAKTemplates, public).Name, public.Algorithm())
	fmt.Println(tcg.Match(tcg.EKTemplates, public) == nil)
	// Output:
	// H-2 ECDSA P-256
	// true
}

// Only the TPM that has the EK and the named key can decrypt the credential.
func ExampleMakeCredential() {
	maker, err := fleet.NewMaker("example", fleet.MakerOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	device, err := fleet.New(maker, "H-2") // a machine with an emulated TPM
	if err != nil {
		fmt.Println(err)
		return
	}
	blob, encrypted, err := tcg.MakeCredential(device.EK.Public, device.IAK.Name(), []byte("secret"))
	if err != nil {
		fmt.Println(err)
		return
	}
	secret, err := device.ActivateCredential(blob, encrypted)
	fmt.Println(string(secret), err)
	// Output:
	// secret <nil>
}
