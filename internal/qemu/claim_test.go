package qemu_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/image/stick"
	"gangway/internal/hubtest"
	"gangway/wire"
)

// A machine whose image has no join token displays a claim code as a QR code. A phone can read the
// code from the screen, and the person who enters it at the hub becomes the machine's owner.
func TestMachineIsClaimedByTheCodeOnItsScreen(t *testing.T) {
	t.Parallel()
	long(t)
	if _, err := exec.LookPath("zbarimg"); err != nil {
		t.Skip("zbarimg is not installed: apt-get install zbar-tools")
	}
	s := newSiteWith(t, func(s *site) stick.Config {
		b, err := json.Marshal(wire.HubFile{Hub: s.token.Hub, HubName: s.token.HubName, HubCA: s.token.HubCA})
		if err != nil {
			t.Fatal(err)
		}
		return stick.Config{Hub: b}
	})
	m, ctx := boot(t, s.with(true))
	_, shown := waitFor(t, ctx, m, `gangway-init .*: claim: (https://\S+) compare ([A-Z2-7-]{14})`)
	s.picture(t, m, "claim")
	if devices := s.hub.Devices(t, s.hub.Owner); len(devices) != 0 {
		t.Errorf("devices before the claim: %+v", devices)
	}
	// Retry, because a screenshot may contain a code that is only half drawn.
	read, screen := "", filepath.Join(t.TempDir(), "screen.png")
	for end := time.Now().Add(time.Minute); read == "" && time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if err := m.Screenshot(ctx, screen); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(ctx, "zbarimg", "--quiet", "--raw", screen).Output(); err == nil {
			read = strings.TrimSpace(string(out))
		}
	}
	if read != shown[1] {
		t.Fatalf("the code on the screen is %q; the console says %q", read, shown[1])
	}
	_, code, _ := strings.Cut(read, "/claim/")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.hub.CA.RootPEM())
	phone := &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer phone.CloseIdleConnections()
	resp, err := phone.PostForm(s.hub.URL+"/claim/"+code, url.Values{"nick": {s.hub.Owner.Nick}, "password": {hubtest.Password}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusSeeOther {
		t.Fatalf("claiming: %s; want 303", resp.Status)
	}
	waitFor(t, ctx, m, `gangway-init .*: onboarded`)
	waitFor(t, ctx, m, `gangway-init .*: this boot is good`)
	m.Stop()
	s.listed(t)
}
