package doctor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"gangway/hub/evidence"
	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/internal/finding"
	"gangway/tcg"
	"gangway/wire"
	"gangway/wire/trail"
)

// Identities checks the hashes, the key names and the certificates of all enrolments, and the
// hashes in other tables. The certificates must have been issued by `ca`, the hub's CA. Identities
// repairs nothing.
func Identities(ctx context.Context, db store.Consistency, ca *pki.Hub) (findings []finding.Finding, err error) {
	wrong, err := db.WrongHashes(ctx)
	if err != nil {
		return nil, err
	}
	for _, d := range wrong {
		findings = append(findings, bad(finding.Problem, d.Rule, fmt.Sprintf(hashFacts[d.Rule], shortened(d.Rows)), "", restoreRemedy))
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Root())
	links := x509.NewCertPool()
	for _, c := range slices.Concat(ca.ACAs(), ca.DeviceCAs()) { // also the CAs that were renewed
		links.AddCert(c)
	}
	check := &identityCheck{options: x509.VerifyOptions{Roots: roots, Intermediates: links, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}}
	const page = 200
	n := 0
	var broken []string
	for after := int64(0); ; {
		list, err := db.Identities(ctx, after, page)
		if err != nil {
			return nil, err
		}
		for _, i := range list {
			after = i.Row
			n++
			if err := check.identity(i); err != nil {
				broken = append(broken, fmt.Sprintf("%s (%v)", i.DeviceID, err))
			}
		}
		if len(list) < page {
			break
		}
	}
	if len(broken) > 0 {
		findings = append(findings, bad(finding.Problem, "identity", fmt.Sprintf("For these devices, the stored data of an enrolment does not match its certificates or hashes: %s.", shortened(broken)),
			"", "Delete each of these devices and let it onboard again: gangway device delete DEVICE"))
	}
	states, err := wrongStates(ctx, db)
	if err != nil {
		return nil, err
	}
	if len(states) > 0 {
		findings = append(findings, bad(finding.Problem, "revision-state", fmt.Sprintf("The states of these revisions do not match their hashes: %s.", shortened(states)),
			"", "Post a new revision for each of these devices."))
	}
	if len(findings) == 0 {
		findings = good("identities", "The certificates and hashes of all %d enrolments are correct.", n)
	}
	return findings, nil
}

// wrongStates returns the revisions whose stored state does not match the hash in the revision's
// row.
func wrongStates(ctx context.Context, db store.Consistency) (wrong []string, err error) {
	const page = 200
	for after := int64(0); ; {
		list, err := db.States(ctx, after, page)
		if err != nil {
			return nil, err
		}
		for _, r := range list {
			after = r.Row
			if state, err := trail.ParseState(r.State); err != nil || store.Hash(state.Sum()) != r.Sum {
				wrong = append(wrong, fmt.Sprintf("%s/%d", r.Device, r.Rev))
			}
		}
		if len(list) < page {
			return wrong, nil
		}
	}
}

// hashFacts has a sentence for each rule that store.Consistency.WrongHashes checks, with %s for the
// rows that break the rule.
var hashFacts = map[string]string{
	"trust-fingerprint": "The trust store has certificates whose stored fingerprints are wrong. They come from these sources: %s.",
	"manifest-key":      "In these accounts, the id of a manifest key is not the hash of the key: %s.",
	"chain-hash":        "The CA certificates that the hub stored with EK certificates do not match these stored hashes: %s.",
	"manifest-hash":     "In these accounts, the id of a reference manifest is not the hash of the manifest: %s.",
}

type identityCheck struct{ options x509.VerifyOptions }

// identity checks an enrolment. It skips empty columns, because older enrolments no longer have
// evidence, and revoked enrolments may have none.
func (c *identityCheck) identity(i store.Identity) error {
	if i.Unreadable != "" {
		return errors.New(i.Unreadable)
	}
	for _, h := range []struct {
		what    string
		content []byte
		sum     store.Hash
	}{{"request", i.Request, i.RequestHash}, {"IDevID certificate", i.IDevIDCert, i.IDevIDHash}, {"AIK certificate", i.IAKCert, i.IAKHash}} {
		if len(h.content) > 0 && sha256.Sum256(h.content) != h.sum {
			return fmt.Errorf("the hash of the %s is wrong", h.what)
		}
	}
	if err := c.aik(i); err != nil {
		return err
	}
	if err := c.idevid(i); err != nil {
		return err
	}
	if err := ekOf(i); err != nil {
		return err
	}
	return requestOf(i)
}

// requestOf checks the columns that the device's signed request determines. It accepts an enrolment
// without a complete request, which the hub stores only for one-step enrolment.
func requestOf(i store.Identity) error {
	r, refusal := evidence.Parse(i.Request)
	if refusal != nil {
		return nil
	}
	if i.Model != r.Model() || !bytes.Equal(i.IDevIDName, r.IDevIDName) || !bytes.Equal(i.EKCertificate, r.EKCertificateDER()) {
		return errors.New("the TPM's model, the IDevID key's name or the EK certificate differs from the request")
	}
	return nil
}

// aik checks the columns that the AIK's public area and certificate determine.
func (c *identityCheck) aik(i store.Identity) error {
	if len(i.IAKPublic) > 0 {
		public, err := tcg.ParsePublic(i.IAKPublic)
		if err != nil {
			return fmt.Errorf("the AIK's public area: %w", err)
		}
		if name, err := public.Name(); err != nil || !bytes.Equal(name, i.IAKName) {
			return errors.New("the AIK's name is not the name of its public area")
		}
	}
	if len(i.IAKCert) == 0 {
		return nil
	}
	id, err := c.verified(i.IAKCert)
	if err != nil {
		return fmt.Errorf("the AIK certificate: %w", err)
	}
	if id.DeviceID != i.DeviceID || id.AKName != hex.EncodeToString(i.IAKName) {
		return errors.New("the AIK certificate is for another device or key")
	}
	return nil
}

// idevid checks the columns that the IDevID certificate determines.
func (c *identityCheck) idevid(i store.Identity) error {
	if len(i.IDevIDCert) == 0 {
		return nil
	}
	id, err := c.verified(i.IDevIDCert)
	if err != nil {
		return fmt.Errorf("the IDevID certificate: %w", err)
	}
	if id.DeviceID != i.DeviceID || id.OwnerPRN != wire.AccountPRN+i.Owner || id.TokenID != i.TokenID || id.AKName != hex.EncodeToString(i.IAKName) {
		return errors.New("the IDevID certificate is for another device, owner, join token or AIK")
	}
	return nil
}

// verified verifies a certificate that the hub issued, and returns the identity in it. It also
// accepts a certificate that has expired.
func (c *identityCheck) verified(der []byte) (pki.Identity, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return pki.Identity{}, err
	}
	options := c.options
	options.CurrentTime = cert.NotBefore
	if _, err := cert.Verify(options); err != nil {
		return pki.Identity{}, err
	}
	id, _ := pki.ReadIdentity(cert) // an AIK certificate names no owner
	return id, nil
}

// ekOf checks that the EK certificate is for the EK.
func ekOf(i store.Identity) error {
	if len(i.EKCertificate) == 0 {
		return nil
	}
	cert, err := tcg.ParseEKCertificate(i.EKCertificate)
	if err != nil {
		return fmt.Errorf("the EK certificate: %w", err)
	}
	if sum, err := tcg.KeyHash(cert.PublicKey); err != nil || sum != i.EK {
		return errors.New("the EK certificate is for another EK")
	}
	return nil
}
