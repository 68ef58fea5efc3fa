package api

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/hub/trust"
	"gangway/hub/ui"
	"gangway/internal/version"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// The addresses of the tabs of the operator's pages. These pages show counters, accounts and the
// hub's own state. They must not read a device's nick, metadata, logs or evidence.
const (
	operatorPath         = "/ui/operator"
	operatorMakersPath   = operatorPath + "/makers"
	operatorVersionsPath = operatorPath + "/versions"
	operatorHealthPath   = operatorPath + "/health"
	operatorAlarmsPath   = operatorPath + "/alarms"
)

const (
	ownersOnPage = 100
	// The page of versions counts the agent versions of at most versionDevices devices, because the
	// hub reads up to half a megabyte of metadata for each of them. The page shows at most
	// versionRows versions.
	versionDevices, versionRows = 200, 50
	// If the TLS certificate of the web pages expires within certificateSoon, its renewal has
	// failed: ACME and similar tools would have renewed it by then. So the operator must act.
	certificateSoon = 14 * 24 * time.Hour
)

// showOperator answers with the tab at the request's path.
func (s *Server) showOperator(w http.ResponseWriter, r *http.Request) error {
	p := &ui.OperatorPage{}
	for _, t := range []ui.Tab{{Name: "Owners", Path: operatorPath}, {Name: "TPM makers", Path: operatorMakersPath}, {Name: "Versions", Path: operatorVersionsPath}, {Name: "Health", Path: operatorHealthPath}, {Name: "Alarms", Path: operatorAlarmsPath}} {
		t.Current = t.Path == r.URL.Path
		p.Tabs = append(p.Tabs, t)
	}
	fill := map[string]func(*http.Request, *ui.OperatorPage) error{operatorPath: s.fillOwners, operatorMakersPath: s.fillMakerNumbers, operatorVersionsPath: s.fillVersions, operatorHealthPath: s.fillHealth, operatorAlarmsPath: s.fillAlarms}[r.URL.Path]
	if err := fill(r, p); err != nil {
		return err
	}
	return s.renderPage(w, r, http.StatusOK, "operator", ui.Page{Title: "Operator", Section: ui.SectionOperator, Data: p})
}

func (s *Server) fillOwners(r *http.Request, p *ui.OperatorPage) error {
	n, err := s.cfg.Store.HubCounts(r.Context())
	if err != nil {
		return err
	}
	after := r.URL.Query().Get("after")
	owners, err := s.cfg.Store.Owners(r.Context(), after, ownersOnPage+1)
	if err != nil {
		return err
	}
	p.Owners = &ui.OperatorOwners{
		Accounts: n.Accounts, Disabled: n.Disabled, Devices: n.Devices, Used: byteWords(n.Bytes), Quota: byteWords(s.cfg.ObjectQuota),
	}
	if after != "" {
		p.Owners.First = operatorPath
	}
	if len(owners) > ownersOnPage {
		owners = owners[:ownersOnPage]
		p.Owners.Next = operatorPath + "?after=" + url.QueryEscape(owners[ownersOnPage-1].Nick)
	}
	for _, o := range owners {
		p.Owners.Rows = append(p.Owners.Rows, ui.OperatorOwner{OwnerRow: o, Used: byteWords(o.Bytes), Percent: share(o.Bytes, s.cfg.ObjectQuota)})
	}
	return nil
}

// versionForm matches an agent's version. A device reports its version itself and may send any
// text, and the operator must not see texts of owners' devices, so the page shows only texts that
// match.
var versionForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(devel|v?[0-9]{1,5}(\.[0-9]{1,5}){1,3}([-+][0-9A-Za-z.+-]{1,30})?)$`)
})

// fillVersions counts the versions of the agents on the devices that contacted the hub last.
func (s *Server) fillVersions(r *http.Request, p *ui.OperatorPage) (err error) {
	account := accountOf(r).ID
	if !s.previews.acquire(account) {
		return errPreviews
	}
	defer s.previews.release(account)
	v := &ui.OperatorVersions{Hub: s.cfg.Version}
	of := map[string]int{}
	v.Devices, v.AllDevices, err = s.sample(r.Context(), versionDevices, store.SortLastSeen, func(row *store.DeviceRow) error {
		d, err := s.cfg.Store.Device(r.Context(), row.ID)
		if errors.Is(err, store.ErrNotFound) { // the device was deleted meanwhile
			return nil
		}
		if err != nil {
			return err
		}
		switch version, has := d.DeviceMeta["gangway.version"].(string); {
		case !has:
			v.None++
		case !versionForm().MatchString(version):
			v.Odd++
		default:
			of[version]++
		}
		return nil
	})
	if err != nil {
		return err
	}
	for version, n := range of {
		v.Rows = append(v.Rows, ui.Share{Value: version, N: n, Percent: share(int64(n), int64(v.Devices))})
	}
	slices.SortFunc(v.Rows, func(a, b ui.Share) int { return cmp.Or(cmp.Compare(b.N, a.N), strings.Compare(a.Value, b.Value)) })
	v.More = max(0, len(v.Rows)-versionRows)
	v.Rows = v.Rows[:len(v.Rows)-v.More]
	p.Versions = v
	return nil
}

func byteWords(n int64) string { return ui.Bytes(uint64(max(n, 0))) }

// share returns n as a percentage of total.
func share(n, total int64) int {
	if total <= 0 {
		return 0
	}
	return int(min(float64(max(n, 0))/float64(total)*100, 999))
}

// tpmIDs has the vendor ids of TPM makers (TCG TPM Vendor ID Registry). The keys are the makers'
// names in the trust store, in lower case.
var tpmIDs = map[string]string{
	"amd": "AMD", "atmel": "ATML", "infineon": "IFX", "intel": "INTC", "microsoft": "MSFT", "nationz": "NTZ", "nuvoton": "NTC", "stmicro": "STM",
	"qualcomm": "QCOM", "google": "GOOG", "ibm": "IBM", "samsung": "SMSN", "lenovo": "LEN", "vmware": "VMW",
}

func (s *Server) fillMakerNumbers(r *http.Request, p *ui.OperatorPage) error {
	n, err := s.cfg.Store.HubCounts(r.Context())
	if err != nil {
		return err
	}
	makers, err := s.cfg.Onboard.Makers(r.Context())
	if err != nil {
		return err
	}
	p.Makers = &ui.OperatorMakers{Rows: makerNumbers(makers.Set.Entries()), Devices: n.Devices}
	of := map[string]int{}
	for _, m := range n.Makers {
		of[strings.ToUpper(strings.TrimSpace(m.Value))] += m.N
	}
	for i := range p.Makers.Rows {
		m := &p.Makers.Rows[i]
		if m.Known = m.TPMID != ""; m.Known {
			m.Devices = of[m.TPMID]
			delete(of, m.TPMID)
		}
	}
	for id, devices := range of {
		p.Makers.Others = append(p.Makers.Others, ui.Share{Value: id, N: devices, Percent: share(int64(devices), int64(n.Devices))})
	}
	slices.SortFunc(p.Makers.Others, func(a, b ui.Share) int { return cmp.Or(cmp.Compare(b.N, a.N), strings.Compare(a.Value, b.Value)) })
	return nil
}

// makerNumbers counts the certificates of each maker. The certificates in `entries` must be sorted
// by maker.
func makerNumbers(entries []trust.Entry) (rows []ui.OperatorMaker) {
	for _, e := range entries {
		if len(rows) == 0 || !strings.EqualFold(rows[len(rows)-1].Name, e.Maker) {
			rows = append(rows, ui.OperatorMaker{Name: e.Maker, TPMID: tpmIDs[strings.ToLower(e.Maker)]})
		}
		m := &rows[len(rows)-1]
		switch {
		case e.Distrusted:
			m.Distrusted++
		case e.Root:
			m.Roots++
		default:
			m.Links++
		}
		if e.Stored && !e.BuiltIn && !e.Distrusted {
			m.Added++
		}
	}
	return rows
}

func (s *Server) fillHealth(r *http.Request, p *ui.OperatorPage) error {
	size, err := s.cfg.Store.DatabaseSize(r.Context())
	if err != nil {
		return err
	}
	build := version.Current
	h := &ui.OperatorHealth{
		Started: s.started, Database: byteWords(size), Version: s.cfg.Version, Commit: build.Commit, Built: build.Date,
		Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	if free, total, ok := s.space.now(); ok {
		h.Free, h.Size, h.FreePercent = byteWords(free), byteWords(total), share(free, total)
	}
	if s.space.degraded() {
		h.Notes = append(h.Notes, ui.Notice{Tone: "bad", Text: "The disk is nearly full, so the hub refuses uploads. Make room on the disk: see \"A full disk\" in docs/operations.md."})
	}
	h.Certificates = s.ownCertificates()
	for _, c := range h.Certificates {
		if c.State.Tone == "bad" {
			h.Notes = append(h.Notes, ui.Notice{Tone: "bad", Text: fmt.Sprintf("%s: %s. %s", c.Name, c.State.Text, c.Note)})
		}
	}
	h.Refused = append(refusals("onboarding", s.metrics.enrolments), refusals("activation", s.metrics.activations)...)
	slices.SortStableFunc(h.Refused, func(a, b ui.OperatorRefusals) int {
		return cmp.Or(cmp.Compare(b.N, a.N), strings.Compare(a.Code, b.Code))
	})
	h.Panics = int(counterOf(s.metrics.panics).GetValue())
	p.Health = h
	return nil
}

// ownCertificates returns the hub's certificates with their states and expiry times.
func (s *Server) ownCertificates() []ui.OperatorCertificate {
	list := []ui.OperatorCertificate{
		{Name: "The hub's root, attestation CA and device CA", State: ui.StateBadge("valid"), Note: "No action is necessary, because these certificates never expire. Keep a backup of the folder pki."},
	}
	if c := s.cfg.CA.TLSCA(); c != nil {
		row := ui.OperatorCertificate{Name: "The hub's TLS CA", State: ui.StateBadge("valid"), Expires: c.NotAfter, Note: "Renew it before it expires, with 'gangway ca request'."}
		if !s.cfg.Now().Before(c.NotAfter.Add(-pki.TLSCAWarning)) {
			row.State = ui.Badge{Tone: "bad", Text: "expires soon"}
		}
		list = append(list, row)
	}
	own := ui.OperatorCertificate{Name: "For devices and commands", Where: s.cfg.PublicURL, State: ui.StateBadge("valid"), Note: "No action is necessary, because the hub renews the certificate by itself."}
	if c, err := s.certificate(nil); err == nil {
		own.Expires = c.Leaf.NotAfter
	} else {
		own.State, own.Note = ui.Badge{Tone: "bad", Text: "not available"}, "Read the hub's log."
	}
	list = append(list, own)
	if s.cfg.PageCertificate == nil {
		return list
	}
	pages := ui.OperatorCertificate{Name: "For the web pages", Where: s.cfg.PageURL, State: ui.StateBadge("valid"), Expires: s.cfg.PageCertificate.Expires(), Note: "No action is necessary."}
	switch left := pages.Expires.Sub(s.cfg.Now()); {
	case pages.Expires.IsZero():
		pages.State, pages.Note = ui.Badge{Tone: "bad", Text: "not issued"}, "The CA has not issued a certificate yet. Read the reason in the hub's log."
	case left <= 0:
		pages.State, pages.Note = ui.Badge{Tone: "bad", Text: "expired"}, "Replace the files of --tls-cert and --tls-key, or read in the hub's log why ACME fails."
	case left < certificateSoon:
		pages.State, pages.Note = ui.StateBadge("expires soon"), "The renewal is late. Replace the files of --tls-cert and --tls-key, or read in the hub's log why ACME fails."
	}
	return append(list, pages)
}

// refusals returns the number of refused requests for each error code in the metric `of`. `what`
// says what was requested, such as "onboarding".
func refusals(what string, of *prometheus.CounterVec) (list []ui.OperatorRefusals) {
	metrics := make(chan prometheus.Metric)
	go func() {
		of.Collect(metrics)
		close(metrics)
	}()
	for m := range metrics {
		var one dto.Metric
		if m.Write(&one) != nil {
			continue
		}
		for _, l := range one.GetLabel() {
			if n := int(one.GetCounter().GetValue()); l.GetName() == "outcome" && l.GetValue() != "accepted" && n > 0 {
				list = append(list, ui.OperatorRefusals{What: what, Code: l.GetValue(), N: n})
			}
		}
	}
	return list
}

func counterOf(c prometheus.Counter) *dto.Counter {
	var m dto.Metric
	if c.Write(&m) != nil {
		return nil
	}
	return m.GetCounter()
}

// isOperator reports whether the signed-in account of a page has the role operator.
func isOperator(c caller) bool { return c.Account != nil && c.Account.Operator }

// The method `now` returns the free space and the size of the data folder's file system, in bytes.
// The result `ok` is false if the hub does not watch the file system, or cannot read its state.
func (s *space) now() (free, size int64, ok bool) {
	if s.dir == "" {
		return 0, 0, false
	}
	free, size, err := s.usage(s.dir)
	return free, size, err == nil
}
