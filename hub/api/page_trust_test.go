package api_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"mime/multipart"
	"strings"
	"testing"

	"gangway/hub/policy"
	"gangway/hub/store"
	"gangway/internal/brief"
)

// sendFile posts a form that contains a file.
func (b *browser) sendFile(path, field, file string, content []byte, fields ...string) (int, string, string) {
	b.t.Helper()
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	for i := 0; i+1 < len(fields); i += 2 {
		w.WriteField(fields[i], fields[i+1])
	}
	w.WriteField("csrf", b.token)
	if field != "" {
		f, err := w.CreateFormFile(field, file)
		if err != nil {
			b.t.Fatal(err)
		}
		f.Write(content)
	}
	w.Close()
	status, page, h := b.request("POST", path, body.String(), map[string]string{"Cookie": b.cookie, "Content-Type": w.FormDataContentType(), "Origin": b.s.URL})
	return status, string(page), h.Get("Location")
}

func pemOf(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestTrustPageListsTheMakersInForce(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	page := b.page("/ui/trust")
	says(t, page, "1 root, 1 intermediate", "root", "intermediate: only a link in chains", "does not check the makers' revocation lists")
	root := s.maker.Root
	fingerprint := fmt.Sprintf("%x", sha256.Sum256(root.Raw))
	for query, want := range map[string]bool{"": true, "q=" + fingerprint[:10]: true, "q=" + strings.ToUpper(fingerprint[:6]): true, "q=nobody": false, "q=%3Cscript%3Ealert": false} {
		page := b.page("/ui/trust?" + query)
		if strings.Contains(page, fingerprint) != want || strings.Contains(page, "<script>alert") {
			t.Errorf("%q: %.800s", query, text(page))
		}
	}
	if err := s.Store.ChangeTrust(t.Context(), store.TrustChange{Put: []store.TrustedCertificate{{Fingerprint: sha256.Sum256(root.Raw), DER: root.Raw, Kind: store.Distrusted, Source: "<b>\u202e", Added: s.Now()}}}); err != nil {
		t.Fatal(err)
	}
	page = b.page("/ui/trust")
	says(t, page, "0 roots", "1 distrusted", "refused in every chain")
	if strings.Contains(page, "<b>") {
		t.Error("the source is markup")
	}
}

// An operator uploads a certificate to check it. The page shows the fields of the certificate, and
// whether the hub trusts it. The check changes nothing.
func TestTrustPageChecksACertificate(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	version := must(s.Store.ConfigVersion(t.Context()))(t)
	stranger := must(unknownMaker())(t)
	for name, c := range map[string]struct {
		pem  string
		want []string
	}{
		"known root":   {pemOf(s.maker.Root.Raw), []string{"Root CA certificate", "in the hub's trust store", "gangway trust remove --data DIR"}},
		"unknown root": {pemOf(stranger.Root.Raw), []string{"Root CA certificate", "not trusted", "signed by its own key", "compare its SHA-256", "gangway trust import --data DIR"}},
		"intermediate": {pemOf(stranger.Intermediate.Raw), []string{"Intermediate CA certificate", "only a link in chains to a root"}},
		"EK":           {pemOf(s.victim.EKCert), []string{"EK certificate of a TPM", "trusted", "EK, SHA-256"}},
		"several":      {pemOf(stranger.Root.Raw) + "text between\n" + pemOf(s.victim.EKCert), []string{"Root CA certificate", "EK certificate of a TPM"}},
		"not CA":       {pemOf(s.CA.ACA().Raw)[:200] + "\n-----END CERTIFICATE-----\n", []string{"Not a usable certificate"}},
	} {
		page := b.posts("/ui/trust", 200, "pem", c.pem)
		says(t, page, c.want...)
		if t.Failed() {
			t.Fatal(name)
		}
	}
	for _, text := range []string{"", "no certificate", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "<script>alert(1)</script>"} {
		page := b.posts("/ui/trust", 400, "pem", text)
		if strings.Contains(page, "<script>alert") || strings.Contains(page, "BEGIN PRIVATE KEY") {
			t.Errorf("%q is on the page", text)
		}
	}
	status, page, _ := b.sendFile("/ui/trust", "file", "<b>.pem", s.maker.Root.Raw)
	if status != 200 || !strings.Contains(text(page), "in the hub's trust store") || strings.Contains(page, "<b>.pem") {
		t.Errorf("%d %.800s", status, text(page))
	}
	many := strings.Repeat(pemOf(stranger.Root.Raw), 40)
	says(t, b.posts("/ui/trust", 200, "pem", many), "30 more certificates of the file are not shown.")
	if status, _, _ := b.sendFile("/ui/trust", "file", "x", make([]byte, 300<<10)); status != 400 {
		t.Errorf("a large file: %d", status)
	}
	if status, _, _ := b.sendFile("/ui/trust", "file", "x", make([]byte, 700<<10)); status != 413 {
		t.Errorf("a larger file: %d", status)
	}
	if after := must(s.Store.ConfigVersion(t.Context()))(t); after != version {
		t.Error("the check changed the rules")
	}
}

func TestEKListIsChangedLineByLine(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.browser(t)
	b.signIn()
	ek := hex.EncodeToString(bytes.Repeat([]byte{0xab}, 32))
	lines := func() (list []string) {
		for _, l := range want[[]policy.ListEntry](f.ada, "GET", "/policy/ek-list", nil, 200) {
			list = append(list, strings.Join([]string{l.EK, l.Serial, l.Note, l.Certificate}, " "))
		}
		return list
	}
	says(t, b.page("/ui/trust/eks"), "No EK list", "After you add the first line, the hub refuses every TPM that is not on the list")
	b.posts("/ui/trust/eks/add", 303, "value", strings.ToUpper(ek[:2])+":"+ek[2:], "note", "pallet 7", "required", "yes")
	if got := lines(); len(got) != 1 || got[0] != ek+"  pallet 7 required" {
		t.Fatalf("%q", got)
	}
	page := b.page("/ui/trust/eks")
	says(t, page, "pallet 7", "1 line")
	undo := `{"ek_sha256":"` + ek + `","note":"pallet 7","certificate":"required"}` // the value in the notice's undo form: see TestEKListInBrowser
	b.posts("/ui/trust/eks/add", 303, "value", "12:34", "note", "<script>alert(1)</script>\u202e")
	page = b.page("/ui/trust/eks?q=12")
	if strings.Contains(page, "<script>alert") || strings.Contains(page, ek) || !strings.Contains(page, "1234") || strings.ContainsRune(text(page), '\u202e') {
		t.Errorf("%.800s", text(page))
	}
	says(t, b.page("/ui/trust/eks?q=xyz"), "Type hexadecimal digits")
	says(t, b.page("/ui/trust/eks?q=0123"), "No line matches")
	for _, bad := range []string{"", "xyz", strings.Repeat("a", 200)} {
		page := b.posts("/ui/trust/eks/add", 400, "value", bad, "note", "kept")
		says(t, page, "Write the SHA-256 of the EK")
		if !strings.Contains(page, `value="kept"`) {
			t.Errorf("%q: the typed note is gone", bad)
		}
	}
	// The page does not show a line of another owner's EK list.
	want[map[string]any](f.mallory, "PUT", "/policy/ek-list", `["cdef"]`, 200)
	b.posts("/ui/trust/eks/remove", 404, "value", "cdef", "serial", "yes")
	if page := b.page("/ui/trust/eks"); strings.Contains(page, "cdef") {
		t.Error("the page shows another owner's line")
	}
	b.posts("/ui/trust/eks/remove", 303, "undo", undo)
	if got := lines(); len(got) != 1 || !strings.HasPrefix(got[0], " 1234") {
		t.Errorf("%q", got)
	}
	says(t, b.page("/ui/audit?kind=ek-list."), "ada added a line to the EK list.", "ada removed a line from the EK list.")
}

func TestEKListIsUploadedAndRemoved(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	list := func() int { return len(must(s.Store.EKList(t.Context(), s.Owner.ID))(t)) }
	csv := "ek_sha256,note\n"
	for i := range 120 {
		csv += fmt.Sprintf("%064x,=HYPERLINK(%d)\n", i+1, i)
	}
	status, _, to := b.sendFile("/ui/trust/eks/upload", "list", "bought.csv", []byte(csv))
	if status != 303 || to != "/ui/trust/eks" || list() != 120 {
		t.Fatalf("%d %q, %d lines", status, to, list())
	}
	page := b.page("/ui/trust/eks")
	if n := strings.Count(page, `class="name"`); n != 50 || !strings.Contains(page, `rel="next"`) {
		t.Errorf("%d rows", n)
	}
	for what, c := range map[string]struct {
		content string
		fields  []string
		status  int
	}{
		"without a tick": {"12ab\n", nil, 409},
		"malformed":      {"ek_sha256\nzz\n", []string{"replace", "yes"}, 400},
		"empty":          {"", []string{"replace", "yes"}, 400},
	} {
		if status, page, _ := b.sendFile("/ui/trust/eks/upload", "list", "x.csv", []byte(c.content), c.fields...); status != c.status || list() != 120 {
			t.Errorf("%s: %d, %d lines: %s", what, status, list(), brief.Of(page))
		}
	}
	if status, _, _ := b.sendFile("/ui/trust/eks/upload", "list", "x.csv", []byte("12ab\n"), "replace", "yes"); status != 303 || list() != 1 {
		t.Errorf("%d, %d lines", status, list())
	}
	b.posts("/ui/trust/eks/add", 303, "value", "ff", "note", "=1+1")
	if file := b.page("/ui/trust/eks.csv"); file != "ek_sha256,serial,note,certificate\n,12ab,,\n,ff,'=1+1,\n" {
		t.Errorf("%q", file)
	}
	b.posts("/ui/trust/eks/clear", 400, "confirm", "mallory")
	b.posts("/ui/trust/eks/clear", 303, "confirm", "ada")
	if list() != 0 {
		t.Errorf("%d lines", list())
	}
}
