package e2e_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/device/install"
	"gangway/image/stick"
)

// addFirstRevision stores a first revision on the machine, as an installer image does, and returns
// the revision's objects by their hash.
func (m *machine) addFirstRevision(files map[string]string) map[string]string {
	m.t.Helper()
	dir := m.path("first-revision")
	if err := os.MkdirAll(filepath.Join(dir, "objects"), 0o700); err != nil {
		m.t.Fatal(err)
	}
	state, objects := map[string]any{"#spec": "pantavisor-service-system@1", "bsp/run.json": map[string]int{"n": 1}}, map[string]string{}
	write := func(name string, content []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			m.t.Fatal(err)
		}
	}
	for name, content := range files {
		sum := fmt.Sprintf("%x", sha256.Sum256([]byte(content)))
		state[name], objects[sum] = sum, content
		write("objects/"+sum, []byte(content))
	}
	text, err := json.Marshal(state)
	if err != nil {
		m.t.Fatal(err)
	}
	write("state.json", text)
	m.args = append(m.args, "--first-revision", dir)
	return objects
}

// The first revision that the installer image brought becomes revision 0 of the trail, and the
// owner can download the whole revision. Later revisions follow.
func TestFirstRevisionOfTheImageIsTheTrailsFirst(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	objects := m.addFirstRevision(map[string]string{"app/root": strings.Repeat("root", 3<<20), "bsp/kernel": "kernel", "app/empty": "", "app/x&<>": "odd"})
	// Kill the agent several times while it uploads the revision. Nothing must be lost.
	for range 6 {
		m.run()
		time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond)
		m.kill()
	}
	m.run()
	m.waitForTrail()
	eventually(t, "the folder of the first revision is removed", func() bool {
		_, err := os.Stat(m.path("first-revision"))
		return os.IsNotExist(err)
	})
	if p := m.waitForStatus(0, "DONE"); p.Status != "DONE" {
		t.Errorf("revision 0: %+v", p)
	}
	var list []struct {
		Sum string `json:"sha256sum"`
		URL string `json:"signed-geturl"`
	}
	m.ada.call("GET", "/trails/"+m.id+"/steps/0/objects", nil, &list)
	if len(list) != len(objects) {
		t.Errorf("the hub lists %d objects, want %d", len(list), len(objects))
	}
	for _, o := range list {
		status, content, err := m.files.call(t.Context(), "GET", o.URL, nil)
		if err != nil || status != 200 || string(content) != objects[o.Sum] {
			t.Errorf("%s: %d, %d bytes, %v", o.Sum, status, len(content), err)
		}
	}
	eventually(t, "the device reports revision 0", func() bool {
		var meta map[string]any
		m.ada.call("GET", "/devices/"+m.id+"/device-meta", nil, &meta)
		return meta["pantavisor.revision"] == "0"
	})
	m.waitForStatus(m.post(map[string]string{"app/root": "next"}), "DONE")
	if got := m.calls(); strings.Join(got, " ") != "install 1 test 1 commit 1" {
		t.Errorf("calls: %v", got)
	}
}

// The real pvr can clone a device that has only the first revision of its installer image.
func TestPVRClonesTheFirstRevision(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	tool := needPVR(t, m.hub).withToken(m.ada.token)
	files := map[string]string{"app/root": "root", "bsp/kernel": strings.Repeat("k", 1<<20)}
	m.addFirstRevision(files)
	m.args = m.args[2:] // no hook
	m.run()
	m.waitForTrail()
	work := t.TempDir()
	tool.run(work, "clone", m.hub.URL+"/trails/"+m.id, "boat")
	for name, want := range files {
		if got, err := os.ReadFile(filepath.Join(work, "boat", name)); err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

// An installer image can contain all three kinds of sources: a checkout, an export, and a trail on
// the hub. The trail's name can contain the device's id or its nick.
func TestImageOfACheckoutAnExportAndATrail(t *testing.T) {
	t.Parallel()
	const boot = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
	if _, err := os.Stat(boot); err != nil {
		t.Skip("not installed: " + boot)
	}
	m := newMachine(t)
	m.addFirstRevision(map[string]string{"web/page": "page", "app/root": "of the trail"})
	m.run()
	m.waitForTrail()
	m.waitForStatus(0, "DONE")
	dir := t.TempDir()
	bin := filepath.Join(dir, "gangway")
	buildGangway(t, bin)
	put := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	asJSON := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	// The kernel and the programs are fake files. They have only the properties that the image
	// builder checks.
	kernel := bytes.Repeat([]byte("kernel"), 500)
	copy(kernel[0x202:], "HdrS")
	put("kernel/vmlinuz", kernel)
	put("kernel/busybox", []byte("#!busybox"))
	put("kernel/modules/modules.builtin", []byte("kernel/"+strings.Join(stick.Modules, ".ko\nkernel/")+".ko\n"))
	put("gangway-init", []byte("#!init"))
	put("gangway-agent", []byte("#!agent"))
	put("config/gangway/config.json", asJSON(map[string]string{"hub": m.hub.URL, "hub-ca": string(m.hub.CA.RootPEM()), "nick": m.hub.Owner.Nick, "token": m.ada.token}))
	token := put("token.json", asJSON(m.hub.Token(t, m.hub.Owner, nil)))

	sum := func(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }
	put("checkout/.pvr/json", []byte(`{"#spec":"pantavisor-service-system@1","app/root":"`+sum("of the checkout")+`","bsp/kernel":"`+sum("kernel")+`"}`))
	put("checkout/.pvr/objects/"+sum("of the checkout"), []byte("of the checkout"))
	put("elsewhere/"+sum("kernel"), []byte("kernel"))
	put("checkout/.pvr/config", asJSON(map[string]string{"ObjectsDir": filepath.Join(dir, "elsewhere")}))
	var export bytes.Buffer
	w := tar.NewWriter(&export)
	for name, content := range map[string]string{"json": `{"#spec":"pantavisor-service-system@1","more/x":"` + sum("x") + `"}`, "objects/" + sum("x"): "x"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(content))
	}
	w.Close()
	put("export.tar", export.Bytes())

	gangway := func(args ...string) ([]byte, error) {
		c := exec.CommandContext(t.Context(), bin, args...)
		c.Dir = dir
		c.Env = append(os.Environ(), "XDG_CONFIG_HOME="+filepath.Join(dir, "config"), "HOME="+dir)
		var stderr bytes.Buffer
		c.Stderr = &stderr
		out, err := c.Output()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, stderr.Bytes())
		}
		return out, err
	}
	image := func(sources ...string) (m struct{ First install.First }) {
		t.Helper()
		args := []string{"image", "build", "x64-uefi-installer", "--token-file", token, "--kernel", "kernel", "-o", "installer.img"}
		for _, s := range sources {
			args = append(args, "--merge", s)
		}
		if out, err := gangway(args...); err != nil {
			t.Fatalf("image build: %v: %s", err, out)
		}
		out, err := gangway("image", "inspect", "installer.img", "--output", "json")
		var shown struct{ Manifest struct{ First install.First } }
		if err != nil || json.Unmarshal(out, &shown) != nil {
			t.Fatalf("image inspect: %v: %s", err, out)
		}
		return shown.Manifest
	}
	byID, byNick := m.hub.URL+"/trails/"+m.id, m.hub.Owner.Nick+"/"+m.nick
	all := image("checkout", "export.tar", byID).First
	if got := strings.Join(all.Parts, " "); got != "app bsp more web" || all.Objects != 4 {
		t.Errorf("the image has the parts %s and %d objects, want app bsp more web and 4", got, all.Objects)
	}
	for _, same := range []string{byNick, m.hub.URL + "/" + byNick, byID + "/steps/0"} {
		if got := image("checkout", "export.tar", same).First; got.SHA256 != all.SHA256 {
			t.Errorf("merging %s gives a state with another hash", same)
		}
	}
	if got := image(byID, "checkout").First; got.SHA256 == all.SHA256 {
		t.Error("merging the sources in another order gives the same state")
	}
	text, err := gangway("image", "inspect", "installer.img")
	if err != nil || !strings.Contains(string(text), "app, bsp, web; 3 object(s)") {
		t.Errorf("image inspect: %v: %s", err, text)
	}
	if _, err := gangway("image", "build", "x64-uefi-installer", "--token-file", token, "--kernel", "kernel", "-o", "none.img", "--merge", m.hub.URL+"/trails/0123456789abcdef01234567"); err == nil {
		t.Error("building an image with an unknown trail succeeded")
	}
	if _, err := os.Stat(filepath.Join(dir, "none.img")); err == nil {
		t.Error("the failed build left an image")
	}
}
