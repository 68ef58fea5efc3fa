package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/image/stick"
	"gangway/internal/hubtest"
	"gangway/internal/qemu"
	"gangway/internal/race"
	"gangway/wire"
	"gangway/wire/trail/sig"
)

// programAs returns a builder whose program is a shell script. In the script, $OUT is the path of
// the image that the script must write, and $SEEN is the path of a folder that still exists after
// the build.
func programAs(t *testing.T, script string) (b *imageBuilder, seen string) {
	t.Helper()
	seen = t.TempDir()
	path := filepath.Join(t.TempDir(), "gangway")
	script = "#!/bin/sh\nSEEN=" + seen + "\nfor a; do case $a in --out=*) OUT=${a#--out=};; esac; done\n" + script
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return &imageBuilder{program: path, dir: filepath.Join(t.TempDir(), imageFolder), log: slog.New(slog.DiscardHandler)}, seen
}

// tokenOf returns a token file, and its secret.
func tokenOf(t *testing.T) (file []byte, secret string) {
	t.Helper()
	secret = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"
	return []byte(`{"token":"` + secret + `"}`), secret
}

// The function `empty` fails the test if a build has left a file on the disk.
func empty(t *testing.T, b *imageBuilder) {
	t.Helper()
	left, err := os.ReadDir(b.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) || len(left) > 0 {
		t.Errorf("left on the disk: %v, %v", left, err)
	}
}

func jsonOf(t *testing.T, tok *wire.TokenFile) []byte {
	t.Helper()
	b, err := json.Marshal(tok)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The join token's secret and the proxy's password reach the child only through pipes, and are not
// in the child's command line or environment. The child does not inherit any variable of the hub's
// environment either.
func TestImageBuilderKeepsSecretsOutOfTheCommandLine(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "the-key-of-the-bucket")
	b, seen := programAs(t, `
tr '\0' '\n' < /proc/$$/cmdline > $SEEN/cmdline
tr '\0' '\n' < /proc/$$/environ > $SEEN/environ
cat > $SEEN/stdin
cat /dev/fd/3 > $SEEN/network
stat -c %a "$(dirname $OUT)" > $SEEN/mode
echo "Making the installer" >&2
echo "$OUT, 1 MiB" >&2
cat $SEEN/stdin > $OUT
`)
	token, secret := tokenOf(t)
	network := "proxy = http://ada:swordfish@proxy.example:3128\n"
	var steps []string
	image, err := b.Build(t.Context(), api.ImageOptions{Network: network, Disk: "serial:--out=/etc/passwd"}, token, 1<<20, func(s string) { steps = append(steps, s) })
	if err != nil {
		t.Fatal(err)
	}
	empty(t, b) // the image's file is already removed from the folder
	got, err := io.ReadAll(image)
	if err != nil || string(got) != string(token) || image.Size != int64(len(token)) {
		t.Errorf("the image is %q, %v", got, err)
	}
	image.Close()
	if read(t, seen+"/stdin") != string(token) || read(t, seen+"/network") != "version = 1\n"+network {
		t.Error("the child did not get the token and the network settings")
	}
	for _, file := range []string{"cmdline", "environ"} {
		for _, hidden := range []string{secret, "swordfish", "the-key-of-the-bucket"} {
			if strings.Contains(read(t, filepath.Join(seen, file)), hidden) {
				t.Errorf("%s is in the child's %s", hidden, file)
			}
		}
	}
	if mode := strings.TrimSpace(read(t, seen+"/mode")); mode != "700" {
		t.Errorf("the child's folder has mode %s", mode)
	}
	if arg := strings.Split(read(t, seen+"/cmdline"), "\n"); !strings.Contains(strings.Join(arg, "\n"), "\n--disk=serial:--out=/etc/passwd\n") {
		t.Errorf("the typed text is no argument of its own: %q", arg)
	}
	if len(steps) != 1 || steps[0] != "Making the installer" {
		t.Errorf("steps: %q", steps)
	}
}

// For an image with claim codes, the child gets the hub file and no token file.
func TestImageBuilderGivesTheHubFileToTheChild(t *testing.T) {
	b, seen := programAs(t, `
tr '\0' '\n' < /proc/$$/cmdline > $SEEN/cmdline
cat > $SEEN/stdin
echo image > $OUT
`)
	const hub = `{"hub":"https://hub.example:12443"}`
	image, err := b.Build(t.Context(), api.ImageOptions{Claim: true}, []byte(hub), 1<<20, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	image.Close()
	arg := read(t, seen+"/cmdline")
	if read(t, seen+"/stdin") != hub || !strings.Contains(arg, "\n--claim\n--hub-file=-\n") || strings.Contains(arg, "--token-file") {
		t.Errorf("%q", arg)
	}
}

// If a build takes too long, or the client that requested it closes the connection, the builder
// kills the child and the child's own children.
func TestImageBuilderKillsTheChildAndItsChildren(t *testing.T) {
	t.Parallel()
	b, seen := programAs(t, `
sleep 1000 &
echo $! > $SEEN/grandchild
echo $$ > $SEEN/child
echo half > $OUT
trap '' TERM
touch $SEEN/ready
wait
`)
	token, _ := tokenOf(t)
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(seen + "/ready"); err == nil {
				stop()
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	if _, err := b.Build(ctx, api.ImageOptions{}, token, 1<<20, func(string) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	empty(t, b)
	for _, who := range []string{"child", "grandchild"} {
		pid, err := strconv.Atoi(strings.TrimSpace(read(t, filepath.Join(seen, who))))
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(5 * time.Second); !gone(pid); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the %s still runs", who)
			}
		}
	}
}

// The function `gone` reports whether a process has ended. A zombie process has ended too.
func gone(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// A build cannot write a file that is larger than the size limit. A build that fails for this
// reason leaves no file.
func TestImageBuilderBoundsTheSize(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"the image":           `exec head -c 3000000 /dev/zero > $OUT`,
		"another file":        `exec head -c 3000000 /dev/zero > $TMPDIR/part`,
		"a child's file":      `head -c 3000000 /dev/zero > $TMPDIR/part || exit 1; echo > $OUT`,
		"a file with a hole ": `exec truncate -s 3000000 $OUT`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, _ := programAs(t, "cat >/dev/null\n"+script)
			token, _ := tokenOf(t)
			image, err := b.Build(t.Context(), api.ImageOptions{}, token, 1<<20, func(string) {})
			if !errors.Is(err, api.ErrImageSize) {
				t.Errorf("%v, %v", image, err)
			}
			empty(t, b)
		})
	}
}

// A child that fails, writes no image, or writes endless output does not block the hub or fill its
// memory. The child's messages in the hub's log do not contain the secret.
func TestImageBuilderSurvivesABadChild(t *testing.T) {
	t.Parallel()
	token := bytes.Repeat([]byte("x"), 1<<20) // more than the buffer of a pipe
	for name, script := range map[string]string{
		"fails":         `cat >/dev/null; exit 3`,
		"reads nothing": `exit 0`,
		"no image":      `cat >/dev/null`,
		"floods":        `cat >/dev/null; yes 0123456789 | head -c 30000000 >&2; yes | head -c 30000000; exit 1`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, _ := programAs(t, script)
			_, err := b.Build(t.Context(), api.ImageOptions{Network: "dns = 192.0.2.53\n"}, token, 1<<20, func(string) {})
			if err == nil || len(err.Error()) > 2*maxChildTail {
				t.Errorf("an error of %d bytes", len(fmt.Sprint(err)))
			}
			empty(t, b)
		})
	}
	h := hubtest.New(t, nil, nil)
	tok := h.Token(t, h.Owner, nil)
	file, secret := jsonOf(t, tok), tok.Token
	b, _ := programAs(t, `sed -n 's/.*"token": *"\([^"]*\)".*/the secret is \1/p' >&2; exit 1`)
	_, err := b.Build(t.Context(), api.ImageOptions{}, file, 1<<20, func(string) {})
	if err == nil || strings.Contains(err.Error(), secret) || !strings.Contains(err.Error(), "[secret]") {
		t.Errorf("%v", err)
	}
}

// Attack: a person types the path of a file on the hub as the value of an image's option. The hub
// must refuse the option before it starts a child process.
func TestImageOptionsNameNoFileOfTheHub(t *testing.T) {
	t.Parallel()
	b, seen := programAs(t, `touch $SEEN/started`)
	for option, o := range map[string][]api.ImageOptions{
		"escrow":       {{Escrow: "/etc/passwd"}, {Escrow: "age1nobody"}, {Escrow: "--help"}, {Escrow: "recovery.key"}},
		"disk":         {{Disk: "/etc/passwd"}, {Disk: "biggest"}, {Disk: "/dev/../etc/passwd"}, {Disk: "model:["}, {Disk: strings.Repeat("x", 300)}},
		"revision-key": {{RevisionKey: "/etc/passwd"}, {RevisionKey: "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}, {RevisionKey: strings.Repeat("-", 1<<20)}},
		"network":      {{Network: "dns = here\n"}, {Network: "address = 192.0.2.300/24\n"}, {Network: "color = blue"}, {Network: "\x00"}, {Network: strings.Repeat("# x\n", 100_000)}},
	} {
		for _, one := range o {
			var wrong *api.ImageOptionError
			if err := b.Check(one); !errors.As(err, &wrong) || wrong.Option != option || !strings.HasSuffix(wrong.Reason, ".") {
				t.Errorf("%.60q: %v", fmt.Sprint(one), err)
			}
			if _, err := b.Build(t.Context(), one, []byte("{}"), 1<<20, func(string) {}); !errors.As(err, &wrong) {
				t.Errorf("%.60q was built: %v", fmt.Sprint(one), err)
			}
		}
	}
	if err := b.Check(api.ImageOptions{Network: "mtu = 1500\ncolor = blue\n"}); err == nil || !strings.HasPrefix(err.Error(), "Line 2: ") {
		t.Errorf("a mistake in the second line: %v", err)
	}
	if exists(seen + "/started") {
		t.Error("a child was started")
	}
	for _, o := range []api.ImageOptions{{}, {Disk: "largest"}, {Disk: "/dev/nvme0n1"}, {Network: "version = 1\naddress = 192.0.2.10/24\ngateway = 192.0.2.1\n"}, {Escrow: "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"}} {
		if err := b.Check(o); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// The page names the missing parts of images, without paths of the hub's machine.
func TestImageBuilderSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	b, _ := programAs(t, "")
	for _, kernel := range []string{"", t.TempDir()} {
		b.kernel = kernel
		if text := b.Missing(); !strings.Contains(text, "gangway image fetch") || strings.Contains(text, "/") {
			t.Errorf("%q", text)
		}
	}
}

// A person builds an image on the page with the real builder. The image contains a valid token
// file. The real build ends if the size limit is too small, or if the client closes the connection.
func TestImageFromThePageIsReal(t *testing.T) {
	race.Skip(t)
	if testing.Short() {
		t.Skip("builds two installer images, of ten seconds each")
	}
	kernel, err := qemu.InstallerKernelDir()
	if err != nil {
		t.Skip(err)
	}
	programs := t.TempDir()
	if out, err := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", programs+"/", "gangway/cmd/gangway-agent", "gangway/cmd/gangway-init").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	self, err := exec.LookPath("gangway") // testscript puts this test binary into PATH under that name
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), imageFolder)
	b := &imageBuilder{program: self, dir: dir, kernel: kernel, programs: programs, log: slog.New(slog.DiscardHandler)}
	if missing := b.Missing(); missing != "" {
		t.Skip(missing)
	}
	maker, err := goodMaker()
	if err != nil {
		t.Fatal(err)
	}
	h := hubtest.NewWith(t, func(c *api.Config) { c.Images, c.Log = b, slog.New(slog.NewTextHandler(t.Output(), nil)) }, maker.Roots(), maker.Intermediates())
	image := filepath.Join(t.TempDir(), "installer.img")
	_, public, _, err := newManifestKey(false)
	if err != nil {
		t.Fatal(err)
	}
	pinned, err := sig.ParseKeys(public)
	if err != nil {
		t.Fatal(err)
	}
	size := download(t, h, image, url.Values{"nick": {"real"}, "max-uses": {"1"}, "disk": {"model:Samsung*"}, "network": {"dns = 192.0.2.53\r\n"}, "revision-key": {string(public)}})
	empty(t, b)
	c, err := stick.Inspect(image, "")
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := h.Store.JoinTokens(t.Context(), h.Owner.ID)
	if err != nil {
		t.Fatal(err)
	}
	if tok := tokens[0]; tok.Nick != "real" || tok.MaxUses != 1 || tok.Disabled || c.Manifest.Token != tok.ID || c.Manifest.Hub != h.URL || c.Manifest.Disk != "model:Samsung*" || c.Manifest.Owner != wire.AccountPRN+h.Owner.ID {
		t.Errorf("%+v\n%+v", tok, c.Manifest)
	}
	if !strings.Contains(strings.Join(c.Network, " "), "192.0.2.53") {
		t.Errorf("network: %q", c.Network)
	}
	if c.Manifest.RevisionKeys != pinned.Name() {
		t.Errorf("the image pins the keys %q, want %s", c.Manifest.RevisionKeys, pinned.Name())
	}
	t.Logf("an image of %d bytes", size)

	tok := jsonOf(t, h.Token(t, h.Owner, func(j *store.JoinToken) { j.Nick = "small" }))
	if _, err := b.Build(t.Context(), api.ImageOptions{}, tok, 20<<20, func(string) {}); !errors.Is(err, api.ErrImageSize) {
		t.Errorf("an image above its bound: %v", err)
	}
	empty(t, b)
	began := make(chan string, 100)
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		<-began
		stop()
	}()
	start := time.Now()
	if _, err := b.Build(ctx, api.ImageOptions{}, tok, 1<<30, func(s string) { began <- s }); !errors.Is(err, context.Canceled) {
		t.Errorf("a build whose client has gone: %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it ended after %v", took)
	}
	empty(t, b)
}

// download posts the page's form, writes the image in the answer to the file at the path `to`, and
// returns the image's size.
func download(t *testing.T, h *hubtest.Hub, to string, form url.Values) int64 {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(h.CA.RootPEM())
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	send := func(path, contentType, bearer, body string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", contentType)
		if bearer != "" {
			req.Header.Set("Authorization", "Bearer "+bearer)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	var session struct{ Token string }
	login := send("/auth/login", "application/json", "", `{"username":"ada","password":"`+hubtest.Password+`"}`)
	err := json.NewDecoder(login.Body).Decode(&session)
	login.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	answer := send("/ui/onboard/image", "application/x-www-form-urlencoded", session.Token, form.Encode())
	defer answer.Body.Close()
	f, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, err := io.Copy(f, answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK || n != answer.ContentLength || answer.Header.Get("Content-Type") != "application/octet-stream" {
		t.Fatalf("status %d, %d of %d bytes, %v", answer.StatusCode, n, answer.ContentLength, err)
	}
	return n
}

// A killed hub leaves the files of a build, which contain a secret. The hub removes these files
// when it next starts.
func TestImagesOfAKilledHubAreRemoved(t *testing.T) {
	t.Parallel()
	for _, builds := range []int{0, 2} {
		dir := t.TempDir()
		left := filepath.Join(dir, imageFolder, "123", "installer.img")
		if err := os.MkdirAll(filepath.Dir(left), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(left, []byte("a secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		i, o := imageFlags{atOnce: builds, size: "512MiB", limits: api.ImageLimits{Time: time.Minute}}, serverOptions{}
		if err := errors.Join(i.check(), i.into(&o, dir, slog.New(slog.DiscardHandler))); err != nil {
			t.Fatal(err)
		}
		if exists(left) {
			t.Error("the image is still there")
		}
		if (o.images != nil) != (builds > 0) || builds > 0 && o.imageLimits != (api.ImageLimits{AtOnce: 2, Time: time.Minute, Size: 512 << 20}) {
			t.Errorf("%d builds: %v, %+v", builds, o.images, o.imageLimits)
		}
	}
}
