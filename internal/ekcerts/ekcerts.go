// Package ekcerts tests how this project reads the EK certificates of real TPMs: the certificates
// in testdata, which may be redistributed, and those in any other folder. The table in
// docs/trust.md shows the results.
//
// To test a folder DIR and print the table's rows, run the command below. The folder must contain
// the certificates with the same bytes as in the TPM's NV (FINGERPRINT.bin) and an index.tsv
// (fingerprint, source):
//
//	go test ./internal/ekcerts -run TestTable -v -ekcerts DIR
package ekcerts

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"gangway/hub/evidence"
	"gangway/tcg"
)

// Row is a row of the table in docs/trust.md, for one certificate.
type Row struct {
	Maker, Model string
	Fingerprint  string // SHA-256 of the DER, 64 hexadecimal digits
	Found        string // its source
	Verdict      string
	Quirks       string
}

// Try parses and checks one certificate as if the current time were `at`. `raw` has the same bytes
// as the TPM's NV.
func Try(raw []byte, trust *evidence.Trust, at time.Time) Row {
	e, err := tcg.ParseEKCertificate(raw)
	if err != nil {
		sum := sha256.Sum256(raw)
		return Row{Fingerprint: hex.EncodeToString(sum[:]), Verdict: "unreadable: " + err.Error()}
	}
	sum := sha256.Sum256(e.Certificate.Raw)
	r := Row{
		Maker: e.Manufacturer, Model: e.Model, Fingerprint: hex.EncodeToString(sum[:]),
		Quirks: strings.Join(e.Quirks, "; "), Verdict: "accepted",
	}
	v := new(evidence.Verdict)
	evidence.VerifyCertificate(v, e, nil, &evidence.Input{Trust: trust, Policy: evidence.Policy{ExpiredEK: evidence.Accept}, Now: at})
	if at.After(e.Certificate.NotAfter) {
		r.Verdict = "accepted, expired"
	}
	if !v.Accepted() {
		issuer := e.Certificate.Issuer.CommonName
		if ou := e.Certificate.Issuer.OrganizationalUnit; issuer == "www.intel.com" && len(ou) > 0 {
			issuer = ou[0]
		}
		r.Verdict = v.Refusal.Code + ": " + issuer
	}
	return r
}

// String returns the row in Markdown.
func (r Row) String() string {
	return "| " + strings.Join([]string{r.Maker, r.Model, "`" + r.Fingerprint + "`", r.Found, r.Verdict, r.Quirks}, " | ") + " |"
}
