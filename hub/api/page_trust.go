package api

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"gangway/hub/chain"
	"gangway/hub/evidence"
	"gangway/hub/onboard"
	"gangway/hub/trust"
	"gangway/hub/ui"
	"gangway/tcg"
	"gangway/wire"
)

const (
	trustPath = "/ui/trust"
	// makerRows is the number of certificates on a page.
	makerRows = 50
	// maxChecked is the largest text or file with certificates that the hub checks, in bytes.
	// checkedShown is the largest number of certificates of one file that the hub checks.
	maxChecked, checkedShown = 256 << 10, 10
	// checkBody bounds the body of the form, which may have both a text and a file of maxChecked
	// bytes.
	checkBody = 2*maxChecked + 64<<10
)

// showMakers answers with the page of the trusted TPM makers. All owners of the hub share one trust
// store, and one owner must not be able to make the other owners trust a maker. So owners can only
// read the trust store, and only the operator can change it (see page_trustchange.go).
func (s *Server) showMakers(w http.ResponseWriter, r *http.Request) error {
	return s.renderMakers(w, r, http.StatusOK, nil)
}

func (s *Server) renderMakers(w http.ResponseWriter, r *http.Request, status int, change func(*ui.MakersPage, *onboard.Makers) error) error {
	makers, err := s.cfg.Onboard.Makers(r.Context())
	if err != nil {
		return err
	}
	q := r.URL.Query()
	p := &ui.MakersPage{Tabs: trustTabs(trustPath), Query: cutTo(q.Get("q"), auditField), CRLs: s.crlWords(), Operator: isOperator(callerOf(r)), Import: "gangway trust import --data DIR TrustedTpm.cab"}
	p.Roots, p.Links = makers.Set.Count()
	s.fillMakers(p, makers.Set, q.Get("after"))
	if change != nil {
		if err := change(p, makers); err != nil {
			return err
		}
	}
	return s.renderPage(w, r, status, "makers", ui.Page{Title: "Trust", Section: ui.SectionTrust, Data: p, Wide: true})
}

func cutTo(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "")
}

// crlWords returns a sentence that says whether the hub checks the makers' revocation lists.
func (s *Server) crlWords() string {
	if o := s.cfg.Onboard.Online; o != nil && o.ChecksCRLs() {
		return "At each onboarding, the hub checks the makers' revocation lists."
	}
	return "The hub does not check the makers' revocation lists."
}

// fillMakers fills in the certificates that match the search. `after` is the fingerprint of the
// last certificate of the previous page, or empty.
func (s *Server) fillMakers(p *ui.MakersPage, set *trust.Set, after string) {
	words := strings.Fields(strings.ToLower(p.Query))
	address := func(after string) string {
		v := url.Values{}
		if p.Query != "" {
			v.Set("q", p.Query)
		}
		if after != "" {
			v.Set("after", after)
		}
		if len(v) == 0 {
			return trustPath
		}
		return trustPath + "?" + v.Encode()
	}
	var found []ui.MakerRow
	for _, e := range set.Entries() {
		if e.Distrusted {
			p.Distrusted++
		}
		if row := s.makerRow(&e); fitsMaker(row, words) {
			found = append(found, row)
		}
	}
	p.Found = len(found)
	if after != "" {
		i := slices.IndexFunc(found, func(row ui.MakerRow) bool { return row.SHA256 == after })
		if found = found[i+1:]; i >= 0 {
			p.First = address("")
		}
	}
	if len(found) > makerRows {
		found = found[:makerRows]
		p.Next = address(found[makerRows-1].SHA256)
	}
	p.Rows = found
}

func fitsMaker(row ui.MakerRow, words []string) bool {
	text := strings.ToLower(row.Maker + " " + row.Name)
	for _, w := range words {
		if !strings.Contains(text, w) && !strings.HasPrefix(row.SHA256, strings.ReplaceAll(w, ":", "")) {
			return false
		}
	}
	return true
}

func (s *Server) makerRow(e *trust.Entry) ui.MakerRow {
	row := ui.MakerRow{Maker: e.Maker, Name: e.Name(), SHA256: hex.EncodeToString(e.Fingerprint[:]), Source: e.Source, Badge: ui.Badge{Tone: "ok", Text: "trusted"},
		Kind: "intermediate: only a link in chains to a root", Until: e.Cert.NotAfter, Expired: s.cfg.Now().After(e.Cert.NotAfter)}
	if e.Root {
		row.Kind = "root"
	}
	if e.Distrusted {
		row.Badge, row.Kind = ui.Badge{Tone: "bad", Text: "distrusted"}, "refused in every chain"
	}
	if e.Stored {
		row.Changed = e.Added
	}
	if e.Cert.NotAfter.Year() >= 9999 { // RFC 5280, 4.1.2.5: the certificate does not expire
		row.Until = time.Time{}
	}
	return row
}

// checkCertificates shows what the certificates that a person pasted or uploaded contain, and
// whether the hub trusts them. It stores nothing.
func (s *Server) checkCertificates(w http.ResponseWriter, r *http.Request) error {
	name, content, err := checkedFile(r)
	if err != nil {
		return err
	}
	var parts []trust.Part
	problem := ""
	switch {
	case len(bytes.TrimSpace(content)) == 0:
		problem = "Paste a certificate, or choose a file."
	case len(content) > maxChecked:
		problem = fmt.Sprintf("The text or the file is larger than %d KiB. Send fewer certificates.", maxChecked>>10)
	default:
		if parts, err = trust.Split(name, content); err != nil {
			problem = upperFirst(tcg.Printable(err.Error())) + ". Send PEM, DER or PKCS #7."
		}
	}
	status := http.StatusOK
	if problem != "" {
		status = http.StatusBadRequest
	}
	return s.renderMakers(w, r, status, func(p *ui.MakersPage, makers *onboard.Makers) error {
		p.Problem, p.More = problem, max(0, len(parts)-checkedShown)
		if text := r.PostFormValue("pem"); !strings.Contains(text, "PRIVATE KEY") { // a private key, pasted by mistake: do not show it again
			p.Text = text
		}
		for _, part := range parts[:min(len(parts), checkedShown)] {
			if err := part.Err(); err != nil {
				p.Checked = append(p.Checked, unreadable(err))
				continue
			}
			p.Checked = append(p.Checked, s.checkedCertificate(part.DER, parts, makers))
		}
		return nil
	})
}

// readFileForm reads a form that may contain a file.
func readFileForm(r *http.Request) error {
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "multipart/form-data" {
		return readForm(r)
	}
	// The route's limit bounds the body, so the form stays in memory.
	if err := r.ParseMultipartForm(1 << 30); err != nil {
		return badBody(err)
	}
	return nil
}

// checkedFile returns the file in the form or, if the form has no file, the text in the form.
func checkedFile(r *http.Request) (name string, content []byte, err error) {
	return fileOrText(r, "pem", maxChecked)
}

// fileOrText returns the file in the form or, if the form has no file, the text in the field
// `field`. It returns at most most+1 bytes of a file, so that the caller can refuse a larger file.
func fileOrText(r *http.Request, field string, most int64) (name string, content []byte, err error) {
	if err := readFileForm(r); err != nil {
		return "", nil, err
	}
	if f, h, err := r.FormFile("file"); err == nil {
		defer f.Close()
		content, err = io.ReadAll(io.LimitReader(f, most+1))
		if err != nil {
			return "", nil, badBody(err)
		}
		if len(content) > 0 {
			return tcg.Printable(cutTo(h.Filename, 100)), content, nil
		}
	}
	return "the text", []byte(r.PostFormValue(field)), nil
}

func unreadable(err error) ui.CheckedCertificate {
	return ui.CheckedCertificate{Title: "Not a usable certificate", Badge: ui.Badge{Tone: "bad", Text: "not usable"}, Words: []string{upperFirst(err.Error()) + "."}}
}

// checkedCertificate describes one certificate: a maker's CA certificate, or a TPM's EK
// certificate.
func (s *Server) checkedCertificate(der []byte, parts []trust.Part, makers *onboard.Makers) ui.CheckedCertificate {
	if c, err := trust.Parse(der, "the text"); err == nil {
		return s.checkedMaker(&c, makers.Set)
	} else if ca, _, parseErr := tcg.ParseCertificate(der); parseErr == nil && ca.IsCA {
		return unreadable(err)
	}
	ek, err := tcg.ParseEKCertificate(der)
	if err != nil {
		return unreadable(errors.New(strings.TrimPrefix(err.Error(), "tcg: ")))
	}
	var above [][]byte
	for _, p := range parts {
		if p.Err() == nil && !bytes.Equal(p.DER, der) && len(above) < wire.MaxIntermediates { // a request may have at most MaxIntermediates
			above = append(above, p.DER)
		}
	}
	return s.checkedEK(ek, above, makers)
}

// certificateFacts returns the facts in a certificate.
func certificateFacts(der []byte) []ui.Fact {
	c := chain.NewCertificate("", "", der)
	until := "without an end"
	if !c.Until.IsZero() {
		until = "to " + c.Until.UTC().Format("2 Jan 2006")
	}
	return []ui.Fact{{Name: "Subject", Value: ui.Visible(c.Subject)}, {Name: "Issuer", Value: ui.Visible(c.Issuer)}, {Name: "Serial number", Value: c.Serial, Mono: true},
		{Name: "Valid", Value: "from " + c.From.UTC().Format("2 Jan 2006") + " " + until}, {Name: "Key", Value: c.Key}, {Name: "SHA-256", Value: c.SHA256, Mono: true}}
}

func (s *Server) checkedMaker(c *trust.Certificate, set *trust.Set) ui.CheckedCertificate {
	out := ui.CheckedCertificate{Title: "Intermediate CA certificate", Facts: boundedFacts(c.Cert.Raw)}
	what := "As an intermediate certificate, this certificate would be only a link in chains to a root. A TPM is trusted only if the chain ends at a trusted root."
	if c.Root {
		out.Title, what = "Root CA certificate", "The certificate is signed by its own key. If the hub trusted this certificate, it would trust every TPM with an EK certificate that chains to this certificate."
	}
	e, known := set.Entry(c.Fingerprint)
	switch {
	case known && e.Distrusted:
		out.Badge, out.Words = ui.Badge{Tone: "bad", Text: "distrusted"}, []string{"The hub's operator distrusts this certificate. The hub refuses every chain that contains it."}
		out.Command = "gangway trust restore --data DIR " + hex.EncodeToString(c.Fingerprint[:])
	case known:
		out.Badge, out.Words = ui.Badge{Tone: "ok", Text: "trusted"}, []string{"This certificate is in the hub's trust store. Source: " + e.Source + "."}
		out.Command = "gangway trust remove --data DIR " + hex.EncodeToString(c.Fingerprint[:])
	default:
		out.Badge, out.Words = ui.Badge{Tone: "off", Text: "not trusted"}, []string{what, "Before you import the certificate, compare its SHA-256 with the value that the maker publishes."}
		out.Command = "gangway trust import --data DIR maker.pem"
	}
	if s.cfg.Now().After(c.Cert.NotAfter) {
		out.Words = append(out.Words, "It has expired.")
	}
	out.Words = append(out.Words, c.Quirks...)
	return out
}

// checkedEK verifies an EK certificate with the present trust store. It applies no policy.
func (s *Server) checkedEK(ek *tcg.EKCertificate, above [][]byte, makers *onboard.Makers) ui.CheckedCertificate {
	out := ui.CheckedCertificate{Title: "EK certificate of a TPM", Facts: boundedFacts(ek.Certificate.Raw), Badge: ui.Badge{Tone: "ok", Text: "trusted"}}
	v := new(evidence.Verdict)
	evidence.VerifyCertificate(v, ek, above, &evidence.Input{Trust: makers.Trust, Policy: evidence.Policy{ExpiredEK: evidence.Accept}, Now: s.cfg.Now()})
	if !v.Accepted() {
		out.Badge = ui.Badge{Tone: "bad", Text: "not trusted"}
	}
	for _, c := range v.Checks {
		out.Words = append(out.Words, c.Detail)
	}
	if hash, err := tcg.KeyHash(ek.PublicKey); err == nil {
		out.Facts = append(out.Facts, ui.Fact{Name: "EK, SHA-256", Value: hex.EncodeToString(hash[:]), Mono: true})
	}
	if v.Accepted() {
		out.Words = append(out.Words, "A certificate does not prove that a machine has the certificate's key. When a TPM onboards, the TPM proves that it has the key.")
	}
	return out
}
