package api_test

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"html"
	"regexp"
	"strings"
	"testing"

	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
)

const addMakers = "/ui/operator/makers/add"

// trustVersionOn returns the version of the trust store in the form of a preview.
func trustVersionOn(t testing.TB, page string) string {
	t.Helper()
	found := regexp.MustCompile(`name="version" value="([0-9a-f]{64})"`).FindStringSubmatch(page)
	if found == nil {
		t.Fatalf("no preview: %s", brief.Of(page))
	}
	return found[1]
}

// pemOn returns the certificates in the form of a preview.
func pemOn(page string) string {
	if found := regexp.MustCompile(`(?s)name="pem" value="([^"]*)"`).FindStringSubmatch(page); found != nil {
		return html.UnescapeString(found[1])
	}
	return ""
}

func makerPage(c *x509.Certificate) string {
	return fmt.Sprintf("/ui/operator/makers/%x", sha256.Sum256(c.Raw))
}

// trustScene is a hub with the signed-in operator olga. A machine with a TPM of an unknown maker
// waits for the decision of another account, ada.
func trustScene(t *testing.T) (s *scene, olga *browser, stranger *fleet.Maker, machine *fleet.Device) {
	t.Helper()
	s = newScene(t)
	s.Server.Unlimited()
	stranger = must(unknownMaker())(t)
	machine = certifiedBy(t, s.victim, stranger)
	machine.Chain = [][]byte{stranger.Intermediate.Raw}
	waits(t, s.post(t, s.request(t, machine)), "ek-chain-untrusted")
	s.operator(t)
	return s, s.signedIn(t, "olga"), stranger, machine
}

// The operator adds a root on the page. The preview says how many waiting machines' EK certificates
// would chain to this root. After the change, the machine onboards, and the operator's audit trail
// has the event.
func TestOperatorAddsAMakerOnThePage(t *testing.T) {
	t.Parallel()
	s, b, stranger, machine := trustScene(t)
	root := stranger.Root
	page := b.posts(addMakers, 200, "pem", "text before\n"+pemOf(root.Raw))
	says(t, page, "Certificates to add", "Root CA certificate", "not trusted", fmt.Sprintf("%x", sha256.Sum256(root.Raw)), "1 machine in a waiting room would have a trusted chain", "Trust 1 certificate")
	version := must(s.Store.ConfigVersion(t.Context()))(t)
	waits(t, s.post(t, s.request(t, machine)), "ek-chain-untrusted")
	if after := must(s.Store.ConfigVersion(t.Context()))(t); after != version {
		t.Error("the preview changed the rules")
	}
	to := b.posts(addMakers, 303, "act", "import", "pem", pemOn(page), "from", "maker.pem", "version", trustVersionOn(t, page), "password", hubtest.Password)
	if !strings.HasSuffix(to, "/ui/operator/makers") {
		t.Errorf("to %q", to)
	}
	must(machine.Onboard(t.Context(), s.client, s.tok))(t)
	says(t, b.page("/ui/audit?kind=trust."), "1 root and 0 intermediates were imported", fmt.Sprintf("%x", sha256.Sum256(root.Raw))[:16], "olga")
	says(t, b.page(makerPage(root)), "trusted", "Source: import of maker.pem", "Remove it", "Distrust it")
	says(t, b.posts(addMakers, 409, "pem", pemOf(root.Raw)), "trusts these certificates already")
	// A certificate that another CA issued becomes a root only if the operator selects this.
	// Otherwise it is an intermediate.
	page = b.posts(addMakers, 200, "pem", pemOf(stranger.Intermediate.Raw), "as-root", "yes")
	says(t, page, "CA certificate, added as a root")
	b.posts(addMakers, 303, "act", "import", "pem", pemOn(page), "as-root", "yes", "version", trustVersionOn(t, page), "password", hubtest.Password)
	says(t, b.page(makerPage(stranger.Intermediate)), "Root. Source: import of the text")
}

// The operator removes, distrusts and restores a certificate. A preview before each change says how
// many devices have this certificate in their certificate chain. A device that has onboarded stays
// active.
func TestOperatorDistrustsAMakerOnThePage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	s.operator(t)
	b := s.signedIn(t, "olga")
	path := makerPage(s.maker.Root)
	says(t, b.page("/ui/trust"), "Add certificates")
	if page := b.page("/ui/trust"); !strings.Contains(page, `href="`+path+`"`) {
		t.Error("the list has no link to the certificate")
	}
	// The certificate is in a file that 'gangway serve' reads, so the page offers to distrust it,
	// but not to remove it.
	if page := b.page(path); strings.Contains(page, "Remove it") {
		t.Error("the page offers a removal without effect")
	}
	b.send("GET", path+"?act=remove", "")
	page := b.page(path + "?act=distrust")
	says(t, page, "1 device has a certificate chain through this certificate", "1 device would have no trusted chain any more", "It stays active")
	b.posts(path, 303, "act", "distrust", "version", trustVersionOn(t, page), "password", hubtest.Password)
	other := certifiedBy(t, s.victim, s.maker)
	other.Chain = [][]byte{s.maker.Intermediate.Raw}
	refused(t, s.post(t, s.request(t, other)), 403, "ek-chain-distrusted")
	if n := must(s.Store.CountDevices(t.Context(), s.Owner.ID))(t); n != 1 {
		t.Errorf("%d devices", n)
	}
	page = b.page(path + "?act=restore")
	says(t, page, "distrusted", "1 device would have a trusted chain, and has none now")
	b.posts(path, 303, "act", "restore", "version", trustVersionOn(t, page), "password", hubtest.Password)
	must(other.Onboard(t.Context(), s.client, s.tok))(t)
	says(t, b.page("/ui/audit?kind=trust."), "is distrusted now", "is trusted again")
}

// A thief of the operator's session cannot add a root, because that needs the password. The hub
// limits the number of attempts, and records each wrong password.
func TestStolenSessionAddsNoMaker(t *testing.T) {
	t.Parallel()
	s, b, stranger, machine := trustScene(t)
	page := b.posts(addMakers, 200, "pem", pemOf(stranger.Root.Raw))
	for _, password := range []string{"", "wrong password"} {
		says(t, b.posts(addMakers, 403, "act", "import", "pem", pemOn(page), "version", trustVersionOn(t, page), "password", password), "The current password is wrong.", "1 machine in a waiting room")
	}
	waits(t, s.post(t, s.request(t, machine)), "ek-chain-untrusted")
	path := makerPage(s.maker.Root)
	says(t, b.posts(path, 403, "act", "distrust", "version", trustVersionOn(t, b.page(path+"?act=distrust")), "password", "wrong"), "The current password is wrong.")
	says(t, b.page("/ui/audit?kind=account."), "wrong current password")
	// Another site cannot send the form, because it does not have the form token.
	b.token = "AAAA"
	b.posts(addMakers, 403, "act", "import", "pem", pemOn(page), "version", trustVersionOn(t, page), "password", hubtest.Password)
	waits(t, s.post(t, s.request(t, machine)), "ek-chain-untrusted")
}

// A change applies only to the trust store that the operator saw in the preview. If somebody
// distrusts a certificate after the preview, the import does not end that distrust.
func TestTrustChangeOfAnOldPreviewIsRefused(t *testing.T) {
	t.Parallel()
	s, b, stranger, machine := trustScene(t)
	root := stranger.Root
	page := b.posts(addMakers, 200, "pem", pemOf(root.Raw))
	if err := s.Store.ChangeTrust(t.Context(), store.TrustChange{Put: []store.TrustedCertificate{{Fingerprint: sha256.Sum256(root.Raw), DER: root.Raw, Kind: store.Distrusted, Source: "x", Added: s.Now()}}}); err != nil {
		t.Fatal(err)
	}
	again := b.posts(addMakers, 409, "act", "import", "pem", pemOn(page), "version", trustVersionOn(t, page), "password", hubtest.Password)
	says(t, again, "The trust store has changed since the preview.", "An operator distrusted the certificate. The change ends the distrust.")
	refused(t, s.post(t, s.request(t, machine)), 403, "ek-chain-distrusted")
	path := makerPage(root)
	says(t, b.posts(path, 409, "act", "distrust", "version", trustVersionOn(t, page), "password", hubtest.Password), "The trust store has changed since the preview.")
	b.posts(addMakers, 303, "act", "import", "pem", pemOn(again), "version", trustVersionOn(t, again), "password", hubtest.Password)
	must(machine.Onboard(t.Context(), s.client, s.tok))(t)
}

// The operator uploads hostile files: with no certificate, an EK certificate, a private key,
// markup, too many certificates or too many bytes. The hub adds no certificate from these files,
// and each page stays small.
func TestHostileMakersFileIsRefused(t *testing.T) {
	t.Parallel()
	s, b, stranger, _ := trustScene(t)
	version := must(s.Store.ConfigVersion(t.Context()))(t)
	for name, c := range map[string]struct {
		pem, want string
	}{
		"nothing":          {"", "Paste a certificate"},
		"no certificate":   {"<script>alert(1)</script>", "Send PEM, DER or PKCS #7."},
		"EK certificate":   {pemOf(s.victim.EKCert), "cannot be used"},
		"one of two":       {pemOf(stranger.Root.Raw) + pemOf(s.victim.EKCert), "Certificate 2 of 2 cannot be used"},
		"private key":      {"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", ""},
		"too many":         {strings.Repeat(pemOf(stranger.Root.Raw), 21), "more than 20 certificates"},
		"too many bytes":   {strings.Repeat("A", 49<<10), "larger than 48 KiB"},
		"markup in bounds": {strings.Repeat(`"`, 48<<10), "Send PEM, DER or PKCS #7."},
	} {
		page := b.posts(addMakers, 400, "act", "import", "pem", c.pem, "password", hubtest.Password)
		says(t, page, c.want)
		if strings.Contains(page, "<script>alert") || strings.Contains(page, "BEGIN PRIVATE KEY") {
			t.Errorf("%s: the text is on the page", name)
		}
		if len(page) > pageBytes {
			t.Errorf("%s: %d bytes", name, len(page))
		}
		if t.Failed() {
			t.Fatal(name)
		}
	}
	if status, _, _ := b.sendFile(addMakers, "file", "<b>.pem", make([]byte, 700<<10)); status != 413 {
		t.Errorf("a large file: %d", status)
	}
	status, page, _ := b.sendFile(addMakers, "file", "<b>.pem", stranger.Root.Raw)
	if status != 200 || strings.Contains(page, "<b>.pem") || !strings.Contains(page, "&lt;b&gt;.pem") {
		t.Errorf("%d %.800s", status, text(page))
	}
	if after := must(s.Store.ConfigVersion(t.Context()))(t); after != version {
		t.Error("a refused file changed the rules")
	}
	for _, path := range []string{"/ui/operator/makers/zz", "/ui/operator/makers/" + strings.Repeat("0", 64)} {
		if status, _, _ := b.send("GET", path, ""); status != 404 {
			t.Errorf("%s: %d", path, status)
		}
	}
	if status, _, _ := b.send("GET", makerPage(s.maker.Root)+"?act=explode", ""); status != 400 {
		t.Errorf("an unknown act: %d", status)
	}
}

// An owner can read the trust store, but finds no form that changes it. The previews do not show an
// operator the name of an owner's machine.
func TestOwnerCannotChangeTheMakers(t *testing.T) {
	t.Parallel()
	s, olga, stranger, machine := trustScene(t)
	b := s.signedIn(t, "ada")
	page := b.page("/ui/trust")
	if strings.Contains(page, "/ui/operator") {
		t.Error("an owner's page links to the operator's pages")
	}
	for _, path := range []string{addMakers, makerPage(s.maker.Root)} {
		if status, _, _ := b.send("GET", path, ""); status != 403 {
			t.Errorf("GET %s: %d", path, status)
		}
		if status, _, _ := b.form(path, "act", "import", "pem", pemOf(stranger.Root.Raw), "password", hubtest.Password); status != 403 {
			t.Errorf("POST %s: %d", path, status)
		}
	}
	preview := olga.posts(addMakers, 200, "pem", pemOf(stranger.Root.Raw))
	if strings.Contains(preview, machine.Serial) {
		t.Error("the preview names an owner's machine")
	}
}
