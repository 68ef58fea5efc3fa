package api

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"gangway/hub/evidence"
	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/hub/trust"
	"gangway/hub/ui"
	"gangway/tcg"
)

// On these pages, the operator changes the trust store in two steps: a preview, and the change
// itself, which needs the account's password. A root admits machines of all owners, so a stolen
// session must not be enough to add a root.

const (
	// maxAdded and maxAddedBytes bound the certificates of one change, so that the preview, which
	// contains the certificates, is a small page.
	maxAdded, maxAddedBytes = 20, 48 << 10
	// A preview examines at most effectDevices devices, effectWaiting waiting machines and
	// effectOwners owners.
	effectDevices, effectWaiting, effectOwners = 400, 100, 1000
	// maxShownText is the largest text, in bytes, that the page shows again when the hub refuses
	// it.
	maxShownText = 8 << 10
	// factLength bounds the names in a certificate that the page shows, in bytes.
	factLength = 300
)

// Acts on the trust store.
const (
	importAct   = "import"
	removeAct   = "remove"
	distrustAct = "distrust"
	restoreAct  = "restore"
)

var (
	errTrustChanged = problem(http.StatusConflict, "trust-changed", "Read the new preview, and confirm it.", "The trust store has changed since the preview.")
	errNoMaker      = problem(http.StatusNotFound, "not-found", "Open the list of certificates on the page Trust.", "The trust store does not have this certificate.")
	errNoSuchAct    = problem(http.StatusBadRequest, "no-such-act", "Go back and reload the page.", "The certificate's state does not allow this change.")
)

// trustVersion returns a hash of the certificates in force. The hub refuses a change if the trust
// store has changed since the preview.
func trustVersion(set *trust.Set) string {
	h := sha256.New()
	for _, e := range set.Entries() {
		fmt.Fprintf(h, "%x %t %t %t\n", e.Fingerprint, e.Root, e.Distrusted, e.Stored)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (s *Server) renderTrustChange(w http.ResponseWriter, r *http.Request, status int, p *ui.TrustChangePage) error {
	return s.renderPage(w, r, status, "trustchange", ui.Page{Title: "TPM makers", Section: ui.SectionOperator, Data: p})
}

// showAddMakers answers with the form for new makers' certificates.
func (s *Server) showAddMakers(w http.ResponseWriter, r *http.Request) error {
	return s.renderTrustChange(w, r, http.StatusOK, &ui.TrustChangePage{Adding: true})
}

// addMakers shows a preview of an import of makers' certificates, or imports the certificates.
func (s *Server) addMakers(w http.ResponseWriter, r *http.Request) error {
	name, content, err := checkedFile(r)
	if err != nil {
		return err
	}
	if from := r.PostFormValue("from"); from != "" { // the file's name, from the form of the preview
		name = tcg.Printable(cutTo(from, 100))
	}
	p := &ui.TrustChangePage{Adding: true, AsRoot: r.PostFormValue("as-root") != "", From: name}
	certs, problem := readAdded(name, content)
	if problem != "" {
		p.Problem = problem
		if text := r.PostFormValue("pem"); len(text) <= maxShownText && !strings.Contains(text, "PRIVATE KEY") { // a private key, pasted by mistake: do not show it again
			p.Text = text
		}
		return s.renderTrustChange(w, r, http.StatusBadRequest, p)
	}
	makers, err := s.cfg.Onboard.Makers(r.Context())
	if err != nil {
		return err
	}
	change, added := makers.Set.Import(certs, p.AsRoot, s.cfg.Now())
	if len(added) == 0 {
		p.Problem = "The hub trusts these certificates already. Nothing was changed."
		return s.renderTrustChange(w, r, http.StatusConflict, p)
	}
	roots := 0
	for i := range added {
		if added[i].Root {
			roots++
		}
	}
	change.Event = s.trustEvent(r, trust.EventImported, "%s and %s were imported: %s", counted(roots, "root"), counted(len(added)-roots, "intermediate"), describedAll(added))
	status := http.StatusOK
	if r.PostFormValue("act") == importAct {
		switch done, failed := s.changeTrust(r, makers, change, p); {
		case failed != nil:
			return failed
		case done:
			return s.redirect(w, r, operatorMakersPath, ui.Notice{Tone: "ok", Text: counted(len(added), "certificate") + " added. The hub uses them from the next request on."})
		default:
			status = http.StatusConflict
			if p.PasswordProblem != "" {
				status = http.StatusForbidden
			}
		}
	}
	for i := range added {
		p.Added = append(p.Added, s.addedCertificate(&added[i], makers.Set))
	}
	p.Text, p.Chosen, p.Confirm = pemOfAll(added), importAct, "Trust "+counted(len(added), "certificate")
	p.Lost = "For all owners, the hub trusts every TPM with an EK certificate that chains to a new root. Anyone can make a certificate with a maker's name. So compare each SHA-256 with the value that the maker publishes."
	return s.previewTrust(w, r, status, p, change, nil)
}

// readAdded returns the CA certificates in a text or a file. If a certificate cannot be used,
// readAdded returns the reason, as sentences for a person.
func readAdded(name string, content []byte) (certs []trust.Certificate, problem string) {
	switch {
	case len(bytes.TrimSpace(content)) == 0:
		return nil, "Paste a certificate, or choose a file."
	case len(content) > maxAddedBytes:
		return nil, fmt.Sprintf("The text or the file is larger than %d KiB. Send fewer certificates, or use 'gangway trust import' on the hub's machine.", maxAddedBytes>>10)
	}
	parts, err := trust.Split(name, content)
	if err != nil {
		return nil, upperFirst(cutTo(tcg.Printable(err.Error()), factLength)) + ". Send PEM, DER or PKCS #7."
	}
	if len(parts) > maxAdded {
		return nil, fmt.Sprintf("There are more than %d certificates. Send fewer certificates, or use 'gangway trust import' on the hub's machine.", maxAdded)
	}
	for i, part := range parts {
		err := part.Err()
		if err == nil {
			var c trust.Certificate
			if c, err = trust.Parse(part.DER, name); err == nil {
				certs = append(certs, c)
				continue
			}
		}
		return nil, fmt.Sprintf("Certificate %d of %d cannot be used: %s. No certificate was added: send only CA certificates of TPM makers.", i+1, len(parts), cutTo(tcg.Printable(err.Error()), factLength))
	}
	return certs, ""
}

// showMaker answers with the page of one certificate of the trust store. If the query has ?act=,
// which is remove, distrust or restore, the page also shows a preview of this change.
func (s *Server) showMaker(w http.ResponseWriter, r *http.Request) error {
	makers, e, err := s.makerInPath(r)
	if err != nil {
		return err
	}
	p, act := s.makerPage(r, makers, &e), r.URL.Query().Get("act")
	if act == "" {
		return s.renderTrustChange(w, r, http.StatusOK, p)
	}
	return s.previewMaker(w, r, http.StatusOK, p, &e, act)
}

// decideMaker removes, distrusts or restores a certificate of the trust store.
func (s *Server) decideMaker(w http.ResponseWriter, r *http.Request) error {
	if err := readFileForm(r); err != nil {
		return err
	}
	makers, e, err := s.makerInPath(r)
	if err != nil {
		return err
	}
	p, act := s.makerPage(r, makers, &e), r.PostFormValue("act")
	change, did := s.makerChange(r, p, &e, act)
	if did == "" {
		if r.PostFormValue("version") != trustVersion(makers.Set) {
			p.Problem = errTrustChanged.Message
			return s.renderTrustChange(w, r, http.StatusConflict, p)
		}
		return errNoSuchAct
	}
	done, err := s.changeTrust(r, makers, change, p)
	if err != nil {
		return err
	}
	if done {
		return s.redirect(w, r, makerPath(e.Fingerprint), ui.Notice{Tone: "ok", Text: "The certificate " + did + ". Devices that have onboarded stay active."})
	}
	status := http.StatusConflict
	if p.PasswordProblem != "" {
		status = http.StatusForbidden
	}
	return s.previewMaker(w, r, status, p, &e, act)
}

func makerPath(fingerprint store.Hash) string {
	return operatorMakersPath + "/" + hex.EncodeToString(fingerprint[:])
}

// makerInPath finds a certificate of the trust store by the SHA-256 in the path. It does not find a
// certificate that the operator has just removed.
func (s *Server) makerInPath(r *http.Request) (*onboard.Makers, trust.Entry, error) {
	makers, err := s.cfg.Onboard.Makers(r.Context())
	if err != nil {
		return nil, trust.Entry{}, err
	}
	sum, err := hex.DecodeString(r.PathValue("sha256"))
	if err != nil || len(sum) != sha256.Size {
		return nil, trust.Entry{}, errNoMaker
	}
	e, ok := makers.Set.Entry(store.Hash(sum))
	if !ok {
		return nil, trust.Entry{}, errNoMaker
	}
	return makers, e, nil
}

func (s *Server) makerPage(r *http.Request, makers *onboard.Makers, e *trust.Entry) *ui.TrustChangePage {
	row := s.makerRow(e)
	one := ui.CheckedCertificate{Title: ui.Visible(cutTo(e.Maker, 100)), Badge: row.Badge, Words: []string{upperFirst(row.Kind) + ". Source: " + trust.Shortened(e.Source) + "."}, Facts: boundedFacts(e.Cert.Raw)}
	if row.Expired {
		one.Words = append(one.Words, "It has expired.")
	}
	p := &ui.TrustChangePage{One: &one, SHA256: row.SHA256}
	switch {
	case e.Distrusted:
		p.Acts = []ui.TrustAct{{Name: restoreAct, Label: "Trust it again"}}
	default:
		if s.removable(r.Context(), e) {
			p.Acts = append(p.Acts, ui.TrustAct{Name: removeAct, Label: "Remove it"})
		}
		p.Acts = append(p.Acts, ui.TrustAct{Name: distrustAct, Label: "Distrust it"})
	}
	p.Version = trustVersion(makers.Set)
	return p
}

// removable reports whether the hub would no longer trust a certificate if the operator removed its
// import. This is not so if the certificate is also built in, or is in a file that 'gangway serve'
// reads.
func (s *Server) removable(ctx context.Context, e *trust.Entry) bool {
	if !e.Stored || e.BuiltIn {
		return false
	}
	_, would, err := s.cfg.Onboard.TryMakers(ctx, e.Remove())
	if err != nil {
		return false
	}
	_, still := would.Set.Entry(e.Fingerprint)
	return !still
}

// makerChange returns the change that `act` names: remove, distrust or restore. The result `did`
// says in words what the change did, such as "was removed", or is empty if the certificate's state
// does not allow the change.
func (s *Server) makerChange(r *http.Request, p *ui.TrustChangePage, e *trust.Entry, act string) (change store.TrustChange, did string) {
	if !slices.ContainsFunc(p.Acts, func(a ui.TrustAct) bool { return a.Name == act }) {
		return change, ""
	}
	kind := trust.EventRemoved
	switch act {
	case removeAct:
		change, did = e.Remove(), "was removed"
	case distrustAct:
		change, did = e.Distrust(s.cfg.Now()), "is distrusted now"
	case restoreAct:
		change, did, kind = e.Restore(s.cfg.Now()), "is trusted again", trust.EventRestored
	}
	change.Event = s.trustEvent(r, kind, "%s %s", cutTo(e.Described(), factLength), did)
	return change, did
}

func (s *Server) previewMaker(w http.ResponseWriter, r *http.Request, status int, p *ui.TrustChangePage, e *trust.Entry, act string) error {
	change, did := s.makerChange(r, p, e, act)
	if did == "" {
		return errNoSuchAct
	}
	p.Chosen = act
	switch act {
	case removeAct:
		p.Confirm, p.Lost = "Remove the certificate", "The hub does not use the certificate any more. If it is an intermediate, a device can still send it with the EK certificate. To refuse the certificate, distrust it instead. You can add the certificate again later."
	case distrustAct:
		p.Confirm, p.Lost = "Distrust the certificate", "For all owners, the hub refuses every chain that contains the certificate, or another certificate with the same key. You can trust the certificate again."
	case restoreAct:
		p.Confirm, p.Lost = "Trust the certificate again", "For all owners, the hub uses the certificate again, as a root or an intermediate as before."
	}
	return s.previewTrust(w, r, status, p, change, e)
}

// trustEvent returns the event of a change of the trust store. The event belongs to the operator's
// account, so it is in that account's audit trail.
func (s *Server) trustEvent(r *http.Request, kind, format string, args ...any) store.Event {
	e := trust.NewEvent(kind, s.cfg.Now(), format, args...)
	e.Owner = accountOf(r).ID
	return e.By(store.ActorIn(r.Context()))
}

// changeTrust makes a change if the form has the account's password and the trust store has not
// changed since the preview. Otherwise, it sets the problem on the page, and the result `done` is
// false.
func (s *Server) changeTrust(r *http.Request, makers *onboard.Makers, change store.TrustChange, p *ui.TrustChangePage) (done bool, err error) {
	if r.PostFormValue("version") != trustVersion(makers.Set) {
		p.Problem = errTrustChanged.Message + " " + errTrustChanged.Hint
		return false, nil
	}
	if err := s.verifyPasswordAgain(r, r.PostFormValue("password")); err != nil {
		text, _, ok := s.formProblem(r, err)
		if !ok {
			return false, err
		}
		p.PasswordProblem = text
		return false, nil
	}
	if err := s.cfg.Store.ChangeTrust(r.Context(), change); err != nil {
		if errors.Is(err, store.ErrNotFound) { // somebody removed the certificate after the preview
			p.Problem = errTrustChanged.Message + " " + errTrustChanged.Hint
			return false, nil
		}
		return false, err
	}
	s.live.tell(change.Event)
	return true, nil
}

// previewTrust answers with the effect of a change. `about` is the certificate that the change
// removes, distrusts or restores. If `about` is nil, the change adds certificates.
func (s *Server) previewTrust(w http.ResponseWriter, r *http.Request, status int, p *ui.TrustChangePage, change store.TrustChange, about *trust.Entry) error {
	account := accountOf(r).ID
	if !s.previews.acquire(account) {
		return errPreviews
	}
	defer s.previews.release(account)
	now, would, err := s.cfg.Onboard.TryMakers(r.Context(), change)
	if err != nil {
		return err
	}
	p.Version = trustVersion(now.Set)
	c := comparison{now: now.Trust, would: would.Trust, about: about, effect: new(ui.TrustEffect)}
	if err := s.compareTrust(r.Context(), &c); err != nil {
		return err
	}
	p.Effect = c.effect
	return s.renderTrustChange(w, r, status, p)
}

// comparison compares the certificate chains of EKs under the present trust store with the chains
// under the changed trust store.
type comparison struct {
	now, would *evidence.Trust
	about      *trust.Entry
	effect     *ui.TrustEffect
}

// compareTrust examines the newest devices and the waiting machines of all owners, up to the limits
// of a preview.
func (s *Server) compareTrust(ctx context.Context, c *comparison) (err error) {
	c.effect.Devices, c.effect.AllDevices, err = s.sample(ctx, effectDevices, store.SortCreated, func(d *store.DeviceRow) error { return s.compareDevice(ctx, c, d) })
	if err != nil {
		return err
	}
	owners, more, err := s.sampledOwners(ctx)
	if err != nil {
		return err
	}
	c.effect.MoreWaiting = more
	for _, o := range owners {
		if err := s.compareWaiting(ctx, c, o.ID); err != nil {
			return err
		}
	}
	return nil
}

// sampledOwners returns at most effectOwners owners, those with the fewest devices first, and
// whether the hub may have more owners.
func (s *Server) sampledOwners(ctx context.Context) (owners []store.OwnerRow, more bool, err error) {
	owners, err = s.cfg.Store.Owners(ctx, "", effectOwners)
	slices.SortStableFunc(owners, func(a, b store.OwnerRow) int { return cmp.Compare(a.Devices, b.Devices) })
	return owners, len(owners) == effectOwners, err
}

// sample calls `look` for at most `most` devices. It takes equally many devices from every owner;
// what owners with fewer devices leave over goes to the other owners. Of each owner's devices, it
// takes those with the largest values of the sort key `by`. The result `looked` is the number of
// calls of `look`, and `all` is the number of the hub's devices.
func (s *Server) sample(ctx context.Context, most int, by store.SortKey, look func(*store.DeviceRow) error) (looked, all int, err error) {
	counts, err := s.cfg.Store.HubCounts(ctx)
	if err != nil {
		return 0, 0, err
	}
	owners, _, err := s.sampledOwners(ctx)
	if err != nil {
		return 0, 0, err
	}
	for i, o := range owners {
		limit := (most - looked) / (len(owners) - i)
		if o.Devices == 0 || limit <= 0 {
			continue
		}
		page, err := s.cfg.Store.SearchDevices(ctx, store.DeviceSearch{Owner: o.ID, Sort: by, Descending: true, Limit: limit})
		if err != nil {
			return 0, 0, err
		}
		for i := range page.Rows {
			if err := look(&page.Rows[i]); err != nil {
				return 0, 0, err
			}
			looked++
		}
	}
	return looked, max(counts.Devices, looked), nil
}

// compareDevice compares the chains of one device's EK certificate before and after the change.
func (s *Server) compareDevice(ctx context.Context, c *comparison, d *store.DeviceRow) error {
	e, err := s.cfg.Store.Enrolment(ctx, d.Enrolment)
	if errors.Is(err, store.ErrNotFound) { // without a TPM, or deleted meanwhile
		return nil
	}
	if err != nil {
		return err
	}
	request, err := enrolled(&e)
	if err != nil || request.EKCertificate == nil {
		return nil // the stored request is wrong, so the comparison leaves the device out
	}
	through, has, gets := c.chains(request, e.Created)
	switch {
	case has && !gets:
		c.effect.Lose++
	case gets && !has:
		c.effect.Gain++
	}
	if through {
		c.effect.Through++
	}
	return nil
}

// The function `enrolled` returns an enrolment's request, with the intermediate certificates that
// the hub fetched for its EK certificate.
func enrolled(e *store.Enrolment) (*evidence.Request, error) {
	request, err := evidence.ParseKept(e.Request)
	if err != nil || request.EKCertificate == nil || len(e.EKLinks) == 0 {
		return request, err
	}
	links, _ := tcg.SplitCertificates(e.EKLinks)
	return request.WithCertificate(request.EKCertificateDER(), links)
}

func (s *Server) compareWaiting(ctx context.Context, c *comparison, owner string) error {
	if c.effect.Waiting >= effectWaiting {
		c.effect.MoreWaiting = true
		return nil
	}
	list, err := s.cfg.Store.WaitingDevices(ctx, owner, s.cfg.Now(), effectWaiting-c.effect.Waiting)
	if err != nil {
		return err
	}
	c.effect.MoreWaiting = c.effect.MoreWaiting || len(list) == effectWaiting-c.effect.Waiting
	for _, one := range list {
		w, err := s.cfg.Store.WaitingByID(ctx, owner, one.DeviceID, s.cfg.Now())
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		c.effect.Waiting++
		request, err := evidence.ParseKept(w.Request)
		if err != nil || request.EKCertificate == nil {
			continue
		}
		switch _, has, gets := c.chains(request, s.cfg.Now()); {
		case has && !gets:
			c.effect.WaitingLose++
		case gets && !has:
			c.effect.WaitingGain++
			if w.State == store.Denied {
				c.effect.DeniedGain++
			}
		}
	}
	return nil
}

// chains compares the chains of one EK certificate before and after the change. The results `has`
// and `gets` report whether the EK certificate has a chain now, and whether it has one after the
// change. The result `through` reports whether the present chain contains the certificate that the
// change is about.
func (c *comparison) chains(r *evidence.Request, at time.Time) (through, has, gets bool) {
	now := c.now.Chain(r, at)
	through = c.about != nil && slices.ContainsFunc(now, func(cert *x509.Certificate) bool { return sha256.Sum256(cert.Raw) == c.about.Fingerprint })
	return through, now != nil, c.would.Chain(r, at) != nil
}

// addedCertificate describes a certificate that a change adds.
func (s *Server) addedCertificate(e *trust.Entry, set *trust.Set) ui.CheckedCertificate {
	out := ui.CheckedCertificate{Title: "Intermediate CA certificate", Badge: ui.Badge{Tone: "off", Text: "not trusted"}, Facts: boundedFacts(e.Cert.Raw)}
	self := bytes.Equal(e.Cert.RawSubject, e.Cert.RawIssuer)
	switch {
	case e.Root && self:
		out.Title, out.Words = "Root CA certificate", []string{"The certificate is signed by its own key. The hub would trust every TPM with an EK certificate that chains to this certificate."}
	case e.Root:
		out.Title, out.Words = "CA certificate, added as a root", []string{"Another CA issued this certificate. The hub would trust every TPM with an EK certificate that chains to it."}
	default:
		out.Words = []string{"The hub would use the certificate only as a link in chains to a root."}
	}
	if had, known := set.Entry(e.Fingerprint); known {
		out.Badge = ui.Badge{Tone: "ok", Text: "trusted"}
		if had.Distrusted {
			out.Badge, out.Words = ui.Badge{Tone: "bad", Text: "distrusted"}, append(out.Words, "An operator distrusted the certificate. The change ends the distrust.")
		}
	}
	if s.cfg.Now().After(e.Cert.NotAfter) {
		out.Words = append(out.Words, "It has expired.")
	}
	for _, q := range e.Quirks {
		out.Words = append(out.Words, cutTo(q, factLength))
	}
	return out
}

// boundedFacts is like certificateFacts, but shortens the texts, because a certificate may have
// very long names.
func boundedFacts(der []byte) []ui.Fact {
	facts := certificateFacts(der)
	for i := range facts {
		if cut := cutTo(facts[i].Value, factLength); cut != facts[i].Value {
			facts[i].Value = cut + "…"
		}
	}
	return facts
}

// describedAll names the first certificates of the list, for the text of an event.
func describedAll(list []trust.Entry) string {
	const named = 3
	var words []string
	for i := range list[:min(len(list), named)] {
		words = append(words, cutTo(list[i].Described(), factLength))
	}
	if more := len(list) - named; more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, ", ")
}

func pemOfAll(list []trust.Entry) string {
	var b strings.Builder
	for i := range list {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: list[i].Cert.Raw}))
	}
	return b.String()
}
