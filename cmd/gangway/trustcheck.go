package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"gangway/hub/evidence"
	"gangway/hub/trust"
	"gangway/tcg"

	"github.com/spf13/cobra"
)

// maxChain is the maximum number of certificates in all --chain files together.
const maxChain = 64

// checkResult is the JSON output of 'gangway trust check'.
type checkResult struct {
	Trusted bool   `json:"trusted"`
	SHA256  string `json:"sha256"` // hash of the EK certificate
	// EKSHA256 is the hash of the EK certificate's public key (SubjectPublicKeyInfo), as in EK
	// lists.
	EKSHA256     string            `json:"ek-sha256"`
	Manufacturer string            `json:"manufacturer"` // manufacturer's id as the EK certificate states it
	Model        string            `json:"model"`
	Version      string            `json:"version"`
	Serial       string            `json:"serial"` // hexadecimal
	Key          string            `json:"key"`    // such as "RSA 2048"
	Issuer       string            `json:"issuer"`
	NotBefore    time.Time         `json:"not-before"`
	NotAfter     time.Time         `json:"not-after"`
	Verdict      *evidence.Verdict `json:"verdict"` // the same verdict that a hub would return
	Signature    string            `json:"signature"`
}

func (a *app) trustCheck() *cobra.Command {
	var data string
	var chain []string
	var makers makerFlags
	c := &cobra.Command{
		Use: "check EK.crt", Short: "Check an EK certificate as a hub does, without a hub", Args: args("the EK certificate's file"),
		Long: `Check reads an EK certificate, in PEM or with the bytes of a TPM's NV index (padded or
wrapped). It prints the verdict of a hub: the maker of the TPM, the root of the
certificate's chain, the source of that root, and unusual properties of the certificate.
The file name - means standard input. With --data, it uses the trust store of that hub.

The exit code is 0 only if the certificate is trusted. Check cannot tell whether the
key is in a TPM; onboarding proves that.`,
		Example: `  gangway trust check ek.crt
  tpm2_nvread 0x01c00002 | gangway trust check - --chain intel-odca.p7b
  gangway trust check ek.crt --data /var/lib/gangway --output json`,
		RunE: func(c *cobra.Command, arg []string) error {
			ctx := c.Context()
			ek, err := readEK(arg[0])
			if err != nil {
				return err
			}
			above, err := readChain(chain)
			if err != nil {
				return err
			}
			set, err := makers.set(ctx)
			if err != nil {
				return err
			}
			if data != "" {
				if set, err = withStored(ctx, data, set); err != nil {
					return err
				}
			}
			anchors, err := evidence.NewTrustOf(set.Anchors())
			if err != nil {
				return err
			}
			verdict := new(evidence.Verdict)
			evidence.VerifyCertificate(verdict, ek, above, &evidence.Input{Trust: anchors, Policy: evidence.Policy{ExpiredEK: evidence.Accept}, Now: time.Now()})
			return a.printCheck(ek, verdict)
		},
	}
	f := c.Flags()
	f.StringSliceVar(&chain, "chain", nil, "file of intermediate CA certificates that come with the EK certificate; none of them is trusted as a root (repeatable)")
	f.StringVar(&data, "data", "", dataFlag+": use its trust store")
	makers.add(f)
	return c
}

// withStored adds the operator's changes to the certificates in `set`, and returns the result. It
// reads the changes from the trust store of the hub in the data folder `data`.
func withStored(ctx context.Context, data string, set *trust.Set) (*trust.Set, error) {
	i, err := existing(ctx, data)
	if err != nil {
		return nil, err
	}
	defer i.close()
	rows, err := i.store.TrustedCertificates(ctx)
	if err != nil {
		return nil, err
	}
	return set.WithStored(rows)
}

func readEK(name string) (*tcg.EKCertificate, error) {
	b, err := readBounded(name)
	if err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return nil, fmt.Errorf("%s is empty: give an EK certificate, in PEM or with the bytes of the TPM's NV index; 'gangway trust check --help' shows how to read the index", name)
	}
	if bytes.Contains(b, []byte("-----BEGIN ")) {
		parts, err := trust.Split(name, b)
		if err != nil {
			return nil, err
		}
		if len(parts) > 1 {
			return nil, fmt.Errorf("%s contains %d certificates: give only the EK certificate, and the others with --chain", name, len(parts))
		}
		if err := parts[0].Err(); err != nil {
			return nil, err
		}
		b = parts[0].DER
	}
	ek, err := tcg.ParseEKCertificate(b)
	if err != nil {
		return nil, fmt.Errorf("%s is not an EK certificate in PEM, in DER or with the bytes of a TPM's NV index: %s", name, strings.TrimPrefix(err.Error(), "tcg: "))
	}
	return ek, nil
}

func readChain(names []string) (chain [][]byte, err error) {
	for _, name := range names {
		b, err := readBounded(name)
		if err != nil {
			return nil, err
		}
		parts, err := trust.Split(name, b)
		if err != nil {
			return nil, err
		}
		for _, p := range parts {
			if err := p.Err(); err != nil {
				return nil, err
			}
			chain = append(chain, p.DER)
		}
		if len(chain) > maxChain {
			return nil, fmt.Errorf("--chain gives more than %d certificates", maxChain)
		}
	}
	return chain, nil
}

func (a *app) printCheck(ek *tcg.EKCertificate, v *evidence.Verdict) error {
	c := ek.Certificate
	hash, err := tcg.KeyHash(ek.PublicKey)
	if err != nil {
		return fmt.Errorf("the certificate's key cannot be read: %w", err)
	}
	print := sha256.Sum256(c.Raw)
	r := checkResult{
		Trusted: v.Accepted(), SHA256: hex.EncodeToString(print[:]), EKSHA256: hex.EncodeToString(hash[:]),
		Manufacturer: ek.Manufacturer, Model: ek.Model, Version: ek.Version, Serial: fmt.Sprintf("%x", c.SerialNumber),
		Key: keyWords(ek), Issuer: visible(c.Issuer.String()), NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		Verdict: v, Signature: c.SignatureAlgorithm.String(),
	}
	done, err := a.json(r)
	if err == nil && !done {
		a.printCheckText(&r)
	}
	if err != nil || r.Trusted {
		return err
	}
	if v.Refusal == nil {
		return errors.New("this certificate is not trusted")
	}
	return fmt.Errorf("this certificate is not trusted (%s). %s", v.Refusal.Code, v.Refusal.Hint)
}

func (a *app) printCheckText(r *checkResult) {
	line := func(k, v string) {
		if v != "" {
			a.printf("  %-14s %s\n", k, visible(v))
		}
	}
	a.printf("EK certificate\n")
	line("maker", r.Manufacturer)
	line("model", r.Model)
	line("version", r.Version)
	line("serial", r.Serial)
	line("key", r.Key)
	line("issued by", r.Issuer)
	line("signature", r.Signature)
	line("valid", r.NotBefore.Format(time.DateOnly)+" to "+r.NotAfter.Format(time.DateOnly))
	line("SHA-256", r.SHA256)
	line("EK's SHA-256", r.EKSHA256)
	a.printf("\nVerdict\n")
	for _, s := range r.Verdict.Checks {
		a.printf("  %s %-15s %s\n", markOf(s), s.Check, visible(s.Detail))
	}
	for _, n := range r.Verdict.Notes {
		a.printf("  · noted          %s\n", visible(n))
	}
	if r.Trusted {
		a.printf("\nTrusted.\n")
	}
}

func keyWords(ek *tcg.EKCertificate) string {
	switch k := ek.PublicKey.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECC " + k.Curve.Params().Name
	}
	return "of an unknown kind"
}
