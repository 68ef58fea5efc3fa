package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/internal/hubtest"
)

// pvr is the real pvr program, at the path in GANGWAY_PVR.
type pvr struct {
	t    *testing.T
	bin  string
	home string
	h    *hubtest.Hub
	args []string // arguments of pvr before each command
}

// needPVR skips the test if GANGWAY_PVR is not set.
func needPVR(t *testing.T, h *hubtest.Hub) *pvr {
	t.Helper()
	p := &pvr{t: t, bin: os.Getenv("GANGWAY_PVR"), home: t.TempDir(), h: h}
	if p.bin == "" {
		t.Skip("GANGWAY_PVR is not set to the path of a pvr program")
	}
	if err := os.WriteFile(filepath.Join(p.home, "ca.pem"), h.CA.RootPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// withToken returns a pvr that gets the access token as a command-line argument.
func (p pvr) withToken(token string) *pvr {
	p.args = []string{"-a", token}
	return &p
}

// withStoredLogin returns a pvr that reads the access token from the file in which pvr stores
// sign-ins.
func (p pvr) withStoredLogin(token string) *pvr {
	p.t.Helper()
	auth, err := json.Marshal(map[string]any{"spec": "1", "tokens": map[string]any{
		p.h.URL + "/auth realm=pantahub services": map[string]string{"Name": "", "access-token": token, "refresh-token": token},
	}})
	if err != nil {
		p.t.Fatal(err)
	}
	dir := filepath.Join(p.home, "stored")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "auth.json"), auth, 0o600); err != nil {
		p.t.Fatal(err)
	}
	p.args = []string{"-c", dir}
	return &p
}

func (p *pvr) command(ctx context.Context, dir string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, p.bin, append(append([]string{"-b", p.h.URL, "--http-proxy=no"}, p.args...), args...)...)
	c.Dir = dir
	// Make pvr trust only the hub's root and ignore the settings of the test machine.
	c.Env = []string{"HOME=" + p.home, "PATH=" + os.Getenv("PATH"), "SSL_CERT_FILE=" + filepath.Join(p.home, "ca.pem"), "SSL_CERT_DIR=" + p.home, "PVR_DISABLE_SELF_UPGRADE=1"}
	return c
}

// run runs a pvr command, which must succeed, and returns its standard output and standard error.
func (p *pvr) run(dir string, args ...string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	out, err := p.command(ctx, dir, args...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("pvr %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// The real pvr can clone a public device of another account.
func TestPVRClonesAnothersPublicDevice(t *testing.T) {
	t.Parallel()
	needFullRun(t)
	h, device := pantavisorHub(t)
	tool := needPVR(t, h)
	device.firstSync(map[string][]byte{"app/root": []byte("to be shared")})
	ada := signIn(t, h)
	h.Account(t, "grace")
	grace := tool.withToken(signInAs(t, h, "grace").token)
	work, url := t.TempDir(), h.URL+"/trails/"+device.id
	if out, err := grace.command(t.Context(), work, "clone", url, "private").CombinedOutput(); err == nil {
		t.Fatalf("cloning a device that is not public succeeded: %s", out)
	}
	ada.call("PUT", "/devices/"+device.id+"/public", nil, new(any))
	grace.run(work, "clone", url, "boat")
	if got, err := os.ReadFile(filepath.Join(work, "boat", "app", "root")); err != nil || string(got) != "to be shared" {
		t.Errorf("the cloned file is %q, %v", got, err)
	}
}

// The real pvr clones a device, changes a file and posts the revision, and the device applies it.
// pvr then lists the revision as done, clones it to another folder, and reads the device's log.
func TestPVRSession(t *testing.T) {
	needFullRun(t)
	h, device := pantavisorHub(t)
	tool := needPVR(t, h)
	device.firstSync(map[string][]byte{"app/root": []byte("the first root"), "bsp/kernel": bytes.Repeat([]byte("k"), 3<<20)})
	token := signIn(t, h).token
	for _, c := range []struct {
		name string
		pvr  *pvr
	}{
		{"token", tool.withToken(token)},
		{"stored login", tool.withStoredLogin(token)},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := *c.pvr
			p.t = t
			work := t.TempDir()
			url := h.URL + "/trails/" + device.id
			p.run(work, "clone", url, "boat")
			boat := filepath.Join(work, "boat")
			if kernel, err := os.ReadFile(filepath.Join(boat, "bsp", "kernel")); err != nil || len(kernel) != 3<<20 {
				t.Fatalf("%d bytes, %v", len(kernel), err)
			}
			changed := "changed by " + c.name
			if err := os.WriteFile(filepath.Join(boat, "app", "root"), []byte(changed), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(boat, "app", "new&<>"), []byte("new of "+c.name), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(boat, "app", "empty.bin"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			p.run(boat, "add", ".")
			p.run(boat, "commit")
			out := p.run(boat, "post", "-m", "a change <&>", url)
			if !strings.Contains(out, "Successfully posted") {
				t.Fatalf("post: %s", out)
			}
			rev, files := device.update("DONE")
			if string(files["app/root"]) != changed || string(files["app/new&<>"]) != "new of "+c.name || files["app/empty.bin"] == nil || len(files["app/empty.bin"]) != 0 || len(files) != 4 {
				t.Errorf("the device has %q and %d files", files["app/root"], len(files))
			}
			if out := p.run(work, "ps"); !strings.Contains(out, device.id[:8]) || !strings.Contains(out, "DONE") || !strings.Contains(out, fmt.Sprintf(" %d ", rev)) || !strings.Contains(out, "127.0.0.1") {
				t.Errorf("ps: %s", out)
			}
			if out := p.run(boat, "stepinfo", url); !strings.Contains(out, `a change \u003c\u0026\u003e`) {
				t.Errorf("stepinfo: %s", out)
			}
			// This revision fails on the device.
			if err := os.WriteFile(filepath.Join(boat, "app", "root"), []byte("bad, "+c.name), 0o600); err != nil {
				t.Fatal(err)
			}
			p.run(boat, "add", ".")
			p.run(boat, "commit")
			p.run(boat, "post", "-m", "a bad change")
			device.update("ERROR")
			if out := p.run(work, "ps"); !strings.Contains(out, "ERROR") {
				t.Errorf("ps: %s", out)
			}
			// pvr clones the successful revision to another folder.
			p.run(work, "clone", fmt.Sprintf("%s/steps/%d", url, rev), "again")
			if got, err := os.ReadFile(filepath.Join(work, "again", "app", "root")); err != nil || string(got) != changed {
				t.Errorf("the cloned file is %q, %v", got, err)
			}
			p.run(boat, "get", fmt.Sprintf("%s/steps/%d", url, rev))
			p.run(boat, "checkout")
			if got, err := os.ReadFile(filepath.Join(boat, "app", "root")); err != nil || string(got) != changed {
				t.Errorf("the cloned file is %q, %v", got, err)
			}
			// pvr posts a revision, and a second post replaces it before the device applies the
			// first.
			p.run(boat, "post", "-m", "twice", "-f", url)
			if err := os.WriteFile(filepath.Join(boat, "app", "root"), []byte("put by "+c.name), 0o600); err != nil {
				t.Fatal(err)
			}
			p.run(boat, "add", ".")
			p.run(boat, "commit")
			p.run(boat, "put", url)
			if _, files := device.update("UPDATED"); string(files["app/root"]) != "put by "+c.name {
				t.Errorf("put: the device has %q", files["app/root"])
			}
			// pvr copies an earlier revision to the device without a checkout.
			if out := p.run(work, "fastcopy", "-m", "back", fmt.Sprintf("%s/steps/%d", url, rev), url); !strings.Contains(out, "Successfully posted") {
				t.Errorf("fastcopy: %s", out)
			}
			// pvr's develop branch of April 2023 has an error: when it copies a whole state
			// (libpvr.RemoteCopy), it swaps the source and the destination, and posts the device's
			// own state. The test requires only that the device gets the state that pvr posted.
			copied := changed
			if strings.Contains(p.run(work, "--help"), "pvr version") {
				copied = "put by " + c.name
			}
			if _, files := device.update("DONE"); string(files["app/root"]) != copied {
				t.Errorf("copied: %q", files["app/root"])
			}
			// pvr exports the checkout, imports it in another folder, and posts it from there.
			p.run(boat, "export", filepath.Join(work, "boat.tgz"))
			other := filepath.Join(work, "other")
			if err := os.Mkdir(other, 0o755); err != nil {
				t.Fatal(err)
			}
			p.run(other, "init")
			p.run(other, "import", filepath.Join(work, "boat.tgz"))
			p.run(other, "checkout")
			p.run(other, "post", "-m", "imported", url)
			if _, files := device.update("DONE"); string(files["app/root"]) != "put by "+c.name {
				t.Errorf("imported: %q", files["app/root"])
			}
			device.must("POST", "/logs/", `[{"tsec":1,"tnano":0,"lvl":"INFO","src":"/pantavisor.log","plat":"pantavisor","rev":"1","msg":"a line for `+c.name+`"}]`)
			p.readUntil(work, "a line for "+c.name, "device", "logs", device.id)
			p.readUntil(work, "a line for "+c.name, "device", "logs", device.id+"/pantavisor.log")
			// If the trail is unknown, pvr gets an error, and not an empty trail.
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if out, err := p.command(ctx, work, "clone", h.URL+"/trails/0123456789abcdef01234567", "none").CombinedOutput(); err == nil || !strings.Contains(string(out), "404") {
				t.Errorf("cloning an unknown trail: %v %s", err, out)
			}
		})
	}
}

// readUntil runs a command that does not end by itself, until the command has printed this line.
func (p *pvr) readUntil(dir, line string, args ...string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	c := p.command(ctx, dir, args...)
	out, err := c.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	var stderr bytes.Buffer
	c.Stderr = &stderr
	if err := c.Start(); err != nil {
		p.t.Fatal(err)
	}
	defer c.Wait()
	defer c.Process.Kill()
	var seen []string
	for scanner := bufio.NewScanner(out); scanner.Scan(); {
		seen = append(seen, scanner.Text())
		if strings.Contains(scanner.Text(), line) {
			return
		}
	}
	p.t.Errorf("pvr %s did not print %q: %q %s", strings.Join(args, " "), line, seen, stderr.Bytes())
}
