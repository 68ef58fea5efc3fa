package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gangway/hub/clone"
	"gangway/hub/store"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
)

// goodMaker is the TPM maker that the hubs of most tests trust. Making its RSA keys takes 0.1 s of
// CPU time, so all tests use one maker.
var goodMaker = sync.OnceValues(func() (*fleet.Maker, error) { return fleet.NewMaker("good", fleet.MakerOptions{}) })

// onboarded starts a hub with one device of the account ada, and signs ada in. The function
// `change` may change the device before the onboarding. onboarded returns the hub, and a function
// that runs a command as ada. That function writes the text `typed` as a line to the command's
// standard input.
func onboarded(t *testing.T, change func(*fleet.Device)) (*hubtest.Hub, func(typed string, arg ...string) (string, string, error)) {
	t.Helper()
	h, run, _ := connected(t, change)
	return h, run
}

// The function `connected` is like onboarded, but also returns a second function, which sends a
// request as the device. The second function fails the test if the hub refuses the request.
func connected(t *testing.T, change func(*fleet.Device)) (*hubtest.Hub, func(typed string, arg ...string) (string, string, error), func(method, path, body string)) {
	t.Helper()
	maker, err := goodMaker()
	if err != nil {
		t.Fatal(err)
	}
	h := hubtest.New(t, maker.Roots(), maker.Intermediates())
	d, err := fleet.New(maker, "H-2")
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(d)
	}
	tok := h.Token(t, h.Owner, nil)
	client, err := fleet.NewHub(tok)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := d.Onboard(t.Context(), client, tok)
	if err != nil {
		t.Fatal(err)
	}
	send := func(method, path, body string) {
		t.Helper()
		conn, err := client.Dial(t.Context(), certs.TLS(d))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if answer, err := conn.Do(t.Context(), method, path, []byte(body)); err != nil || answer.Status != http.StatusOK {
			t.Fatalf("%s %s as the device: %v %+v", method, path, err, answer)
		}
	}
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	run := func(typed string, arg ...string) (string, string, error) {
		t.Helper()
		in, typing, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		if _, err := typing.WriteString(typed + "\n"); err != nil {
			t.Fatal(err)
		}
		typing.Close()
		var out, notes bytes.Buffer
		c := command(&app{stdin: in, stdout: &out, stderr: &notes, poll: 20 * time.Millisecond})
		c.SetArgs(arg)
		err = c.ExecuteContext(t.Context())
		return out.String(), notes.String(), err
	}
	if _, notes, err := run(hubtest.Password, "login", h.URL, "--hub-name", h.CA.HubName(), "--nick", "ada", "--password-stdin"); err != nil {
		t.Fatal(err, notes)
	}
	return h, run, send
}

func only(t *testing.T, h *hubtest.Hub) store.Device {
	t.Helper()
	all := h.Devices(t, h.Owner)
	if len(all) != 1 {
		t.Fatalf("got %d devices, want 1", len(all))
	}
	return all[0]
}

func TestDeviceShowsItsChainOfEvidence(t *testing.T) {
	h, run := onboarded(t, nil)
	d := only(t, h)
	for _, which := range []string{d.ID, d.Nick} {
		out, _, err := run("", "device", "show", which)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{d.Nick, d.ID, "ada", "FAKE", "✓ ek-chain", "✓ certify", "EK (maker)", "AIK", "IDevID", "hub root", "SHA-256", "onboarded"} {
			if !strings.Contains(out, want) {
				t.Errorf("device show does not show %q:\n%s", want, out)
			}
		}
		if strings.Contains(out, "✗") {
			t.Errorf("an active device has a check that failed:\n%s", out)
		}
	}
	out, _, err := run("", "device", "show", d.ID, "--output", "json")
	var v struct {
		Device   struct{ ID string }
		Evidence struct{ Request []byte }
		Events   []struct{ Kind string }
	}
	if err != nil || json.Unmarshal([]byte(out), &v) != nil || v.Device.ID != d.ID || len(v.Evidence.Request) == 0 || len(v.Events) == 0 {
		t.Errorf("device show in JSON: %v: %.200s", err, out)
	}
}

// Attack: a device's model and serial number contain control characters of 7 and 8 bits, which
// change what a terminal shows, and a Unicode override character, after which a terminal shows text
// backwards. No command may print such a character.
func TestDeviceShowPrintsNoControlCharacters(t *testing.T) {
	h, run := onboarded(t, func(d *fleet.Device) {
		d.Model, d.Serial = "box\x1b]0;owned\x07\u009b31m", "\u202e7-\x1b[2J"
	})
	for _, arg := range [][]string{{"device", "show", only(t, h).ID}, {"device", "ls"}, {"events"}} {
		out, notes, err := run("", arg...)
		if err != nil {
			t.Fatal(err)
		}
		if i := strings.IndexAny(out+notes, "\x1b\x07\u009b\u202e"); i >= 0 {
			t.Errorf("%q prints %q", arg, fmt.Sprintf("%.100s", (out + notes)[i:]))
		}
	}
}

func TestDeviceIsRenamedPublishedAndDeleted(t *testing.T) {
	h, run := onboarded(t, nil)
	d := only(t, h)
	if _, _, err := run("", "device", "rename", d.Nick, "flagship"); err != nil {
		t.Fatal(err)
	}
	if out, _, err := run("", "device", "ls"); err != nil || !strings.Contains(out, "flagship") || !strings.Contains(out, "active") {
		t.Errorf("device ls after rename: %v: %s", err, out)
	}
	for _, c := range []struct {
		word   string
		public bool
	}{{"publish", true}, {"publish", true}, {"unpublish", false}} {
		if _, _, err := run("", "device", c.word, "flagship"); err != nil {
			t.Fatal(err)
		}
		if now, err := h.Store.Device(t.Context(), d.ID); err != nil || now.Public != c.public {
			t.Errorf("after %s: public is %v, want %v (%v)", c.word, now.Public, c.public, err)
		}
	}
	if _, _, err := run("", "device", "rename", "flagship", "not a nick"); err == nil || !strings.Contains(err.Error(), "nick-form") {
		t.Errorf("rename to a malformed nick: got %v, want nick-form", err)
	}
	// 'gangway device delete' asks for the device's nick before it deletes the device.
	if _, notes, err := run("yes", "device", "delete", "flagship"); err == nil || !strings.Contains(notes, "releases its TPM") {
		t.Errorf("delete with a wrong nick: %v: %s", err, notes)
	}
	only(t, h)
	if _, notes, err := run("flagship", "device", "delete", "flagship"); err != nil || !strings.Contains(notes, "revoked") {
		t.Fatal(err, notes)
	}
	if n := len(h.Devices(t, h.Owner)); n != 0 {
		t.Errorf("got %d devices after delete, want 0", n)
	}
}

// If a hub's certificate has another host name or another root than login expects, login refuses
// the hub and sends no password.
func TestLoginRefusesAnotherHub(t *testing.T) {
	h, run := onboarded(t, nil)
	_, port, ok := strings.Cut(strings.TrimPrefix(h.URL, "https://"), ":")
	if !ok {
		t.Fatal(h.URL)
	}
	// The test hub's certificate is only for 127.0.0.1.
	_, _, err := run(hubtest.Password, "login", "https://localhost:"+port, "--hub-name", h.CA.HubName(), "--nick", "ada", "--password-stdin")
	if err == nil || !strings.Contains(err.Error(), "is not valid for the name") {
		t.Errorf("another name: got %v", err)
	}
	other := hubtest.New(t, nil, nil)
	file := filepath.Join(t.TempDir(), "other.pem")
	if err := os.WriteFile(file, other.CA.RootPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err = run(hubtest.Password, "login", h.URL, "--hub-ca", file, "--nick", "ada", "--password-stdin")
	if err == nil || !strings.Contains(err.Error(), "another CA") {
		t.Errorf("another hub's root: got %v", err)
	}
	_, _, err = run(hubtest.Password, "login", h.URL, "--hub-name", other.CA.HubName(), "--nick", "ada", "--password-stdin")
	if err == nil || !strings.Contains(err.Error(), "does not have the name") {
		t.Errorf("another hub's name: got %v", err)
	}
	// The sign-in that was stored before the refused attempts still works.
	if out, _, err := run("", "whoami"); err != nil || !strings.Contains(out, h.URL) {
		t.Errorf("whoami after refused sign-ins: %v: %s", err, out)
	}
}

func TestOwnerDecidesAboutAClonedDevice(t *testing.T) {
	h, run := onboarded(t, nil)
	d := only(t, h)
	out, _, err := run("", "device", "cloned", d.Nick)
	if err != nil || !strings.Contains(out, "cloned         no") {
		t.Errorf("device cloned before any finding: %v: %s", err, out)
	}
	e, err := h.Store.Enrolment(t.Context(), d.Enrolment)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = h.Service.RecordSighting(t.Context(), d, e, "192.0.2.9", func(r *clone.Record) {
		r.AddEarlierCertificate("box\x1b[2J", "B", h.Now(), "192.0.2.9")
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		arg          []string
		shows, notes string
	}{
		{[]string{"device", "ls"}, "active, cloned?", ""},
		{[]string{"device", "show", d.ID}, "active, cloned?", ""},
		{[]string{"device", "cloned", d.ID}, "✗", "gangway device cloned " + d.Nick + " --one"},
		{[]string{"device", "cloned", d.Nick, "--two"}, "", "is refused"},
		{[]string{"device", "ls"}, "refused: cloned", ""},
		{[]string{"device", "cloned", d.Nick}, "several machines, by ada", ""},
		{[]string{"device", "cloned", d.Nick, "--undecided"}, "", "is withdrawn"},
		{[]string{"device", "ls"}, "active, cloned?", ""},
		{[]string{"device", "cloned", d.Nick, "--one"}, "✗", "is one machine"},
		{[]string{"device", "cloned", d.Nick}, "· ", ""},
		{[]string{"device", "cloned", d.Nick, "--output", "json"}, `"decided-by": "ada"`, ""},
	} {
		out, notes, err := run("", step.arg...)
		if err != nil || !strings.Contains(out, step.shows) || !strings.Contains(notes, step.notes) || strings.Contains(out, "\x1b") {
			t.Errorf("%q: %v\n%.500s\n%.200s", step.arg, err, out, notes)
		}
	}
	if out, _, err := run("", "device", "ls"); err != nil || strings.Contains(out, "cloned") {
		t.Errorf("device ls after --one: %v: %s", err, out)
	}
	if _, _, err := run("", "device", "cloned", d.Nick, "--one", "--two"); err == nil || !strings.Contains(err.Error(), "are mutually exclusive") {
		t.Errorf("--one with --two: got %v, want an error", err)
	}
}
