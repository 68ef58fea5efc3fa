package api

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"time"

	"gangway/hub/chain"
	"gangway/hub/clone"
	"gangway/hub/store"
	"gangway/hub/ui"
)

// deviceEvidence is the stored evidence of a device, and the chain of trust that package chain
// derives from this evidence.
type deviceEvidence struct {
	facts   chain.Facts
	picture chain.Picture
	cas     []*x509.Certificate // CA certificates above the EK certificate, by the present trust store: the issuer first, the root last
	cloned  ClonedView
}

// readEvidence reads the evidence of a device.
func (s *Server) readEvidence(ctx context.Context, d store.Device, boot string) (*deviceEvidence, error) {
	e := &deviceEvidence{facts: chain.Facts{Device: d, BootState: boot, Clone: d.Clone}}
	enrolment, has, err := orMissing(s.cfg.Store.Enrolment(ctx, d.Enrolment))
	if err != nil {
		return nil, err
	}
	if has {
		if err := s.readVerdict(ctx, e, &enrolment); err != nil {
			return nil, err
		}
	}
	e.picture = chain.Of(e.facts)
	return e, nil
}

// readVerdict adds to `e` the device's enrolment, the hub's verdict about its evidence, its boots,
// and signs that its TPM was cloned. A device without a TPM has none of these.
func (s *Server) readVerdict(ctx context.Context, e *deviceEvidence, enrolment *store.Enrolment) (err error) {
	f := &e.facts
	f.Enrolment = enrolment
	if err := json.Unmarshal(enrolment.Verdict, &f.Verdict); err != nil {
		return err
	}
	if e.cas, err = s.cfg.Onboard.MakerChain(ctx, *enrolment); err != nil {
		return err
	}
	if len(e.cas) > 0 {
		f.Root = e.cas[len(e.cas)-1]
	}
	history, err := s.cfg.Store.BootHistory(ctx, f.Device.ID)
	if err != nil {
		return err
	}
	if len(history) > 0 {
		f.Measured = history[0].Time
	}
	refusal, refused, err := orMissing(s.cfg.Store.BootRefusal(ctx, f.Device.ID))
	if err != nil {
		return err
	}
	if refused {
		f.BootRefusal = &refusal
	}
	rules, err := s.cfg.Onboard.Policy(ctx, f.Device.Owner)
	if err != nil {
		return err
	}
	f.RequireBoot = rules.RequireBoot
	if e.cloned, err = s.clonedView(ctx, f.Device.ID); err != nil {
		return err
	}
	for _, one := range e.cloned.Findings {
		f.CloneFindings = append(f.CloneFindings, chain.CloneFinding{Code: one.Code, Words: one.Words, Open: !one.Answered})
	}
	f.CloneDecision, f.CloneBy = clone.Decision(e.cloned.Decision), e.cloned.By
	if e.cloned.Decided != nil {
		f.CloneDecided = *e.cloned.Decided
	}
	return nil
}

// certificates returns the certificates that belong to one link of the chain of trust, such as the
// EK or the IAK. Each certificate has the name that the address of its download uses.
func (s *Server) certificates(e *deviceEvidence, link string) (list []chain.Certificate) {
	row := e.facts.Enrolment
	if row == nil {
		return nil
	}
	switch link {
	case chain.Maker:
		for i := len(e.cas) - 1; i >= 0; i-- {
			title := "CA certificate of the maker"
			if i == len(e.cas)-1 {
				title = "Maker's root, in this hub's trust store"
			}
			list = append(list, chain.NewCertificate(fmt.Sprintf("maker-%d", len(e.cas)-i), title, e.cas[i].Raw))
		}
	case chain.EK:
		if len(row.EKCertificate) > 0 {
			list = append(list, chain.NewCertificate("ek", "EK certificate, by the TPM's maker", row.EKCertificate))
		}
	case chain.AIK:
		list = append(list, chain.NewCertificate("aik", "AIK certificate, by this hub", row.IAKCert),
			chain.NewCertificate("aca", "This hub's attestation CA", s.cfg.CA.IssuerOf(row.IAKCert, s.cfg.CA.ACA()).Raw))
	case chain.IDevID:
		list = append(list, chain.NewCertificate("idevid", "IDevID certificate, by this hub", row.IDevIDCert),
			chain.NewCertificate("device-ca", "This hub's device CA", s.cfg.CA.IssuerOf(row.IDevIDCert, s.cfg.CA.DeviceCA()).Raw))
	case chain.Connection:
		if block, _ := pem.Decode(s.cfg.CA.RootPEM()); block != nil {
			list = append(list, chain.NewCertificate("hub-root", "This hub's root", block.Bytes))
		}
	}
	return list
}

// hashes returns the hashes and TPM names that belong to one link of the chain of trust.
func (e *deviceEvidence) hashes(link string) []ui.Fact {
	row, d := e.facts.Enrolment, e.facts.Device
	if row == nil {
		return nil
	}
	mono := func(name, format string, value any) ui.Fact {
		return ui.Fact{Name: name, Value: fmt.Sprintf(format, value), Mono: true}
	}
	switch link {
	case chain.EK:
		return []ui.Fact{
			mono("EK, SHA-256", "%x", row.EK),
			{Name: "TPM", Value: ui.Visible(ui.Maker(row.Manufacturer, row.Model))},
			{Name: "TPM firmware", Value: ui.Visible(row.Firmware), Note: "as the TPM attested it"},
		}
	case chain.AIK:
		return []ui.Fact{mono("AIK, TPM name", "%x", row.IAKName)}
	case chain.IDevID:
		return []ui.Fact{mono("IDevID, TPM name", "%x", row.IDevIDName), {Name: "Key", Value: row.KeyAlgorithm},
			mono("Request, SHA-256", "%x", row.RequestHash)}
	case chain.Connection:
		return []ui.Fact{
			{Name: "Activated", Value: d.Activated.UTC().Format("2 Jan 2006 15:04:05.000 UTC")},
			{Name: "Last heard from", Value: d.LastSeen.UTC().Format("2 Jan 2006 15:04:05 UTC")},
			mono("Address", "%s", d.LastSeenAddr),
			{Name: "Join token", Value: d.TokenID, Mono: true},
		}
	}
	return nil
}

// paper returns the data of the printed page about the evidence.
func (s *Server) paper(e *deviceEvidence) *ui.Evidence {
	p := &ui.Evidence{Chain: e.picture, Judged: e.judged()}
	for _, l := range e.picture.Links {
		p.Certificates = append(p.Certificates, s.certificates(e, l.Name)...)
		if l.Name != chain.Connection {
			p.Facts = append(p.Facts, e.hashes(l.Name)...)
		}
	}
	return p
}

func (e *deviceEvidence) judged() time.Time {
	if e.facts.Enrolment == nil {
		return time.Time{}
	}
	return e.facts.Enrolment.Created
}

// fillTrust fills the tab "Trust". ?link= chooses a link of the chain; by default it is the first
// link that is not verified.
func (s *Server) fillTrust(r *http.Request, v *deviceView) error {
	e, err := s.readEvidence(r.Context(), v.Device, v.boot)
	if err != nil {
		return err
	}
	t := &ui.DeviceTrust{Chain: e.picture, Judged: e.judged(), Link: e.picture.Links[0]}
	for _, l := range e.picture.Links {
		if l.State != chain.Verified && l.State != chain.Decided {
			t.Link = l
			break
		}
	}
	if name := r.URL.Query().Get("link"); name != "" {
		chosen := e.picture.Link(name)
		if chosen == nil {
			return store.ErrNotFound
		}
		t.Link = *chosen
	}
	t.Certificates, t.Facts = s.certificates(e, t.Link.Name), e.hashes(t.Link.Name)
	if len(e.cloned.Findings) > 0 {
		t.Cloned = &ui.Cloned{Device: v.Device, Codes: e.cloned.Open()}
		for _, f := range e.cloned.Findings {
			t.Cloned.Reasons = append(t.Cloned.Reasons, f.Words)
		}
		t.CloneBack = e.cloned.Decision != ""
	}
	v.Trust, v.Evidence = t, s.paper(e)
	return nil
}

// downloadCertificate answers with one certificate of the device's chain, or with all certificates
// (chain.pem), in PEM.
func (s *Server) downloadCertificate(w http.ResponseWriter, r *http.Request) error {
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	name, isPEM := strings.CutSuffix(r.PathValue("file"), ".pem")
	if !isPEM {
		return store.ErrNotFound
	}
	e, err := s.readEvidence(r.Context(), d, store.BootUnmeasured)
	if err != nil {
		return err
	}
	var text []byte
	for _, l := range e.picture.Links {
		for _, c := range s.certificates(e, l.Name) {
			if name == "chain" || name == c.Name {
				text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.DER})...)
			}
		}
	}
	if text == nil {
		return store.ErrNotFound
	}
	h := w.Header()
	h.Set("Content-Type", "application/x-pem-file")
	h.Set("Content-Disposition", `attachment; filename="`+d.ID+"-"+name+`.pem"`)
	h.Set("Cache-Control", "no-store")
	setLength(w, len(text))
	_, err = w.Write(text)
	return err
}
