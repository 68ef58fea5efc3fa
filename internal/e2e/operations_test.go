package e2e_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/device/agent"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
	"gangway/internal/swtpm"
)

// operator runs the commands of one chapter of docs/operations.md on a separate hub. It replaces
// the page's paths, addresses and names with those of the test.
type operator struct {
	t     *testing.T
	dir   string
	words *strings.Replacer // replaces words of the page by words of the test
	env   []string

	old, new string // addresses
	stop     func() // stops the hub; nil if no hub runs
}

func newOperator(t *testing.T) *operator {
	t.Helper()
	dir, err := os.MkdirTemp("", "op")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	o := &operator{t: t, dir: dir}
	for _, sub := range []string{"bin", "backup", "build"} {
		if err := os.Mkdir(o.at(sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	buildGangway(t, o.at("build/gangway"))
	for from, to := range map[string]string{o.at("build/gangway"): o.at("bin/gangway"), agentBinary: o.at("bin/gangway-agent")} {
		if err := os.Symlink(from, to); err != nil {
			t.Fatal(err)
		}
	}
	one, another := loopbackPort(t), loopbackPort(t)
	o.old, o.new = "https://127.0.0.1:"+one, "https://localhost:"+another
	// The longest texts to replace come first, because the replacer uses the first text that
	// matches.
	o.words = strings.NewReplacer(
		"--listen :12443", "--listen 127.0.0.1:"+one, "--listen :443", "--listen 127.0.0.1:"+another,
		"https://hub.example:12443", o.old, "https://new.example", o.new,
		"/var/lib/gangway", o.at("hub"), "/backup", o.at("backup"), "/usr/local/bin", o.at("bin"), "build/gangway", o.at("build/gangway"),
	)
	o.env = append(os.Environ(), "PATH="+o.at("bin")+":"+os.Getenv("PATH"), "HOME="+dir, "XDG_CONFIG_HOME="+o.at("config"))
	t.Cleanup(o.end)
	return o
}

func (o *operator) at(name string) string { return filepath.Join(o.dir, name) }

func (o *operator) end() {
	if o.stop != nil {
		o.stop()
		o.stop = nil
	}
}

// loopbackPort returns a free port on loopback, below the range that systems use for outgoing
// connections.
func loopbackPort(t *testing.T) string {
	t.Helper()
	for range 100 {
		port := fmt.Sprint(20000 + rand.IntN(10000))
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return ""
}

// chapter returns the shell commands in the section of docs/operations.md with this title.
func chapter(t *testing.T, title string) (lines []string) {
	t.Helper()
	return commands(t, title, "\n## ")
}

// ofCopies returns the lines without the commands `gangway backup` and `gangway restore`. The
// remaining commands make a backup by copying files. The script cmd/gangway/testdata/hub/backup.txt
// tests `gangway backup` and `gangway restore`.
func ofCopies(lines []string) []string {
	return slices.DeleteFunc(lines, func(line string) bool {
		return strings.HasPrefix(line, "gangway backup ") || strings.HasPrefix(line, "gangway restore ")
	})
}

// beginning returns the commands of a chapter before its first section. TestChaptersOfOperationsPage
// of internal/docs types the commands of the other sections.
func beginning(t *testing.T, title string) (lines []string) {
	t.Helper()
	return commands(t, title, "\n### ")
}

// restoring returns the commands that restore copied files. These are the first commands of the
// chapter "Restoring", and the commands of its section "From copied files".
func restoring(t *testing.T) (lines []string) {
	t.Helper()
	inSection := chapter(t, "Restoring")
	first := slices.IndexFunc(inSection, func(line string) bool { return strings.Contains(line, "gangway.lost") })
	if first < 0 {
		t.Fatal("no command of docs/operations.md keeps the lost folder")
	}
	return append(ofCopies(beginning(t, "Restoring")), inSection[first:]...)
}

// commands returns the commands of a chapter before the text `end`.
func commands(t *testing.T, title, end string) (lines []string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## "+title+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	section, _, _ = strings.Cut(section, end)
	for _, block := range strings.Split(section, "\n```sh\n")[1:] {
		text, _, _ := strings.Cut(block, "\n```\n")
		lines = append(lines, strings.Split(text, "\n")...)
	}
	if !found || len(lines) == 0 {
		t.Fatalf("no chapter %q with commands", title)
	}
	return lines
}

// The method `types` runs one command of docs/operations.md, and returns the command's output. If
// the command is `gangway serve`, the method first stops the hub of an earlier command. It leaves
// the new hub running in the background.
func (o *operator) types(line string, more ...string) string {
	o.t.Helper()
	line = o.words.Replace(line)
	for _, arg := range more {
		line += " " + arg
	}
	o.t.Logf("$ %s", line)
	if strings.HasPrefix(line, "gangway serve ") {
		o.serve(line)
		return ""
	}
	c := exec.CommandContext(o.t.Context(), "sh", "-c", line)
	c.Dir, c.Env = o.dir, o.env
	out, err := c.CombinedOutput()
	if err != nil {
		o.t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

func (o *operator) serve(line string) {
	o.t.Helper()
	o.end()
	ctx, cancel := context.WithCancel(context.Background())
	c := exec.CommandContext(ctx, "sh", "-c", "exec "+line)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.Dir, c.Env = o.dir, o.env
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		o.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	o.stop = func() {
		cancel()
		<-done
	}
	for _, m := range regexp.MustCompile(`--listen (\S+)`).FindAllStringSubmatch(line, -1) {
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			// The handshake succeeds only after the hub has opened its data folder. This connection
			// does not verify the hub, but the commands after it do.
			conn, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Second}, "tcp", m[1], &tls.Config{InsecureSkipVerify: true})
			if err == nil {
				conn.Close()
				break
			}
			if time.Now().After(deadline) {
				o.end()
				o.t.Fatalf("no hub at %s: %s", m[1], said.String())
			}
		}
	}
}

// account creates the account of docs/operations.md, signs it in at the old address, and makes the
// hub trust the TPM's maker.
func (o *operator) account(tpm *swtpm.TPM) {
	o.t.Helper()
	var roots bytes.Buffer
	for _, c := range append(tpm.Roots(), tpm.Issuer()) {
		pem.Encode(&roots, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	for name, text := range map[string]string{"makers.pem": roots.String(), "policy.yaml": hubtest.LabPolicy} {
		if err := os.WriteFile(o.at(name), []byte(text), 0o600); err != nil {
			o.t.Fatal(err)
		}
	}
	o.types("gangway trust import --data /var/lib/gangway makers.pem")
	o.types("gangway policy set policy.yaml --data /var/lib/gangway")
	var a struct {
		Password string `json:"password"`
		HubName  string `json:"hub-name"`
	}
	if err := json.Unmarshal([]byte(o.types("gangway account create --data /var/lib/gangway --nick ada --generate --output json", "2>&-")), &a); err != nil {
		o.t.Fatal(err)
	}
	if err := os.WriteFile(o.at("password"), []byte(a.Password+"\n"), 0o600); err != nil {
		o.t.Fatal(err)
	}
	if err := os.WriteFile(o.at("hub-name"), []byte(a.HubName), 0o600); err != nil {
		o.t.Fatal(err)
	}
	o.types("gangway login https://hub.example:12443 --hub-name "+a.HubName+" --nick ada", "--password-stdin < password")
}

// ofMachine returns the agent's flags for a TPM and a state folder.
func ofMachine(tpm *swtpm.TPM, state string) string {
	return "--tpm " + tpm.Address() + " --state " + state
}

// waitForReportAt runs the agent until it has reported to the hub at an address.
func (o *operator) waitForReportAt(tpm *swtpm.TPM, state, at string) {
	o.t.Helper()
	before := readState(o.t, state).LastSeen
	time.Sleep(time.Until(before.Add(time.Second))) // LastSeen, the time of the last report, has whole seconds
	stop := onboardAndRun(o.t, agent.Config{TPM: tpm.Address(), StateDir: state})
	defer stop()
	for range 400 {
		if s := readState(o.t, state); s.LastSeen.After(before) && s.Hub == at {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	o.t.Fatalf("the agent does not report at %s: %s", at, brief.Of(readState(o.t, state)))
}

// An operator can move a hub with the commands of the chapter "Moving". A running device follows
// the hub to its new address. A device that was off gets the new address from a file. The owner
// signs in at the new address.
func TestOperationsMoving(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	o := newOperator(t)
	o.types("gangway serve --data /var/lib/gangway --listen :12443 --url https://hub.example:12443")
	o.account(tpm)
	state, off := o.at("state"), o.at("off")
	o.types("gangway token create -o first.json")
	o.types("gangway-agent onboard --token-file first.json", ofMachine(tpm, state))
	if err := os.CopyFS(off, os.DirFS(state)); err != nil {
		t.Fatal(err)
	}
	serves := 0
	for _, line := range beginning(t, "Moving") {
		switch {
		case strings.HasPrefix(line, "gangway serve"):
			o.types(line)
			at := []string{o.old, o.new}[serves]
			o.waitForReportAt(tpm, state, at)
			serves++
		case strings.HasPrefix(line, "gangway login"):
			name, err := os.ReadFile(o.at("hub-name"))
			if err != nil {
				t.Fatal(err)
			}
			o.types(strings.Replace(line, "$HUB_NAME", string(name), 1), "--password-stdin < password")
		case strings.HasPrefix(line, "gangway-agent onboard"):
			out := o.types(line, ofMachine(tpm, off))
			if !strings.Contains(out, "already onboarded") || !strings.Contains(out, o.new) {
				t.Errorf("the agent does not report its new address: %s", out)
			}
		default:
			o.types(line)
		}
	}
	if serves != 2 {
		t.Errorf("the chapter starts %d hubs, want 2", serves)
	}
	o.waitForReportAt(tpm, off, o.new)
	if n := strings.Count(o.types("gangway device ls", "--output json"), `"token-id"`); n != 1 {
		t.Errorf("%d devices, want 1", n)
	}
}

// An operator can restore a hub from copied files, as the chapters "Backup" and "Restoring" say. A
// device that onboarded before the backup reports again. A device that onboarded after the backup
// must onboard again, with its join token.
func TestOperationsRestoring(t *testing.T) {
	t.Parallel()
	tpm, later := newTPM(t, swtpm.P384), newTPM(t, swtpm.P384)
	o := newOperator(t)
	o.types("gangway serve --data /var/lib/gangway --listen :12443 --url https://hub.example:12443")
	o.account(tpm)
	o.types("gangway token create -o token.json")
	o.types("gangway-agent onboard --token-file token.json", ofMachine(tpm, o.at("state")))
	for _, line := range ofCopies(chapter(t, "Backup")) {
		o.types(line)
	}
	o.types("gangway-agent onboard --token-file token.json", ofMachine(later, o.at("later")))
	o.end()
	for _, line := range restoring(t) {
		o.types(line)
	}
	o.waitForReportAt(tpm, o.at("state"), o.old)
	if out := o.types("gangway-agent status --ask", ofMachine(later, o.at("later"))); !strings.Contains(out, "does not know this machine's certificate") {
		t.Errorf("status --ask: %s", out)
	}
	o.types("gangway-agent onboard --token-file token.json", ofMachine(later, o.at("later")))
	o.waitForReportAt(later, o.at("later"), o.old)
	if n := strings.Count(o.types("gangway device ls", "--output json"), `"token-id"`); n != 2 {
		t.Errorf("%d devices, want 2", n)
	}
}

// An operator can upgrade a hub of an earlier commit with the commands of the chapter "Upgrading",
// and again after restoring the backup.
func TestOperationsUpgrading(t *testing.T) {
	needFullRun(t)
	t.Parallel()
	archives, err := filepath.Glob("testdata/hubs/*.tar.gz")
	if err != nil || len(archives) == 0 {
		t.Fatal(archives, err)
	}
	old := unpack(t, archives[len(archives)-1])
	if missing := swtpm.Missing(); missing != "" {
		t.Skip(missing)
	}
	tpm, err := swtpm.New(t.Context(), filepath.Join(old, "tpm"), swtpm.Options{Maker: filepath.Join(old, "maker")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tpm.Stop)
	o := newOperator(t)
	if err := os.CopyFS(o.at("hub"), os.DirFS(filepath.Join(old, "hub"))); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(o.at("hub/objects"), 0o700); err != nil { // some old hubs did not have this folder
		t.Fatal(err)
	}
	makePrivate(t, o.at("hub"))
	state := filepath.Join(old, "device")
	setHubAddress(t, state, o.old)
	for _, line := range ofCopies(chapter(t, "Backup")) {
		o.types(line)
	}
	if err := os.Remove(o.at("bin/gangway")); err != nil { // the old program
		t.Fatal(err)
	}
	for range 2 { // first the old data folder, then the restored backup
		for _, line := range beginning(t, "Upgrading") {
			o.types(line)
		}
		o.waitForReportAt(tpm, state, o.old)
		o.end()
		for _, line := range restoring(t) {
			if !strings.HasPrefix(line, "gangway serve") {
				o.types(strings.Replace(line, "gangway.lost", "gangway.lost-"+fmt.Sprint(time.Now().UnixNano()), 1))
			}
		}
	}
}

// makePrivate removes the permissions of other users, because os.CopyFS adds them.
func makePrivate(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := os.FileMode(0o600)
		if d.IsDir() {
			mode = 0o700
		}
		return os.Chmod(path, mode)
	})
	if err != nil {
		t.Fatal(err)
	}
}
