package docs_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"gangway/hub/store/postgres/pgtest"
	"gangway/internal/connectproxy"
	"gangway/internal/hubtest"
	"gangway/internal/swtpm"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// repository returns the path, inside the sandbox (type room), of a file of the repository.
func (r *room) repository(name string) string {
	r.t.Helper()
	here, err := os.Getwd()
	if err != nil {
		r.t.Fatal(err)
	}
	return filepath.Join(here, root, name)
}

// The method `installed` installs Gangway's programs in the sandbox. The commands of all pages
// except README.md use the installed programs.
func (r *room) installed() {
	r.t.Helper()
	r.types("cd " + r.repository("."))
	r.types("make -s build && cp build/gangway* /usr/local/bin/")
	r.types("cd ~/work")
}

// hasTPM gives the machine a TPM at /dev/tpmrm0, and makes the hub trust the TPM's maker. The TPM
// is a software TPM, so /dev/tpmrm0 is a socket and not a device file. This is the only difference
// from a real machine.
func (r *room) hasTPM() *swtpm.TPM {
	r.t.Helper()
	if m := swtpm.Missing(); m != "" {
		r.t.Skip(m)
	}
	tpm, err := swtpm.New(r.t.Context(), r.t.TempDir(), swtpm.Options{EK: swtpm.P384})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(tpm.Stop)
	r.plugged(tpm)
	return tpm
}

// The method `plugged` makes the software TPM `tpm` the TPM of the machine.
func (r *room) plugged(tpm *swtpm.TPM) {
	r.t.Helper()
	os.Remove("/dev/tpmrm0")
	if err := os.Symlink(strings.TrimPrefix(tpm.Address(), "unix:"), "/dev/tpmrm0"); err != nil {
		r.t.Fatal(err)
	}
	r.tpm = tpm
	r.env = append(r.env, "TPM2TOOLS_TCTI="+tpm.TCTI(), "TPM2OPENSSL_TCTI="+tpm.TCTI())
}

// substitute replaces the path of the TPM in a command with `tcti`, the address of a software TPM.
// It changes nothing else in the command.
func substitute(line, tcti string) string {
	return strings.ReplaceAll(line, "device:/dev/tpmrm0", tcti)
}

// The method `trusts` makes the hub accept software TPMs, and trust the maker of the software TPM
// `tpm`.
func (r *room) trusts(tpm *swtpm.TPM) {
	r.t.Helper()
	var makers bytes.Buffer
	for _, c := range append(tpm.Roots(), tpm.Issuer()) {
		pem.Encode(&makers, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	r.writes("/root/makers.pem", makers.String(), 0o600)
	r.writes("/root/lab-policy.yaml", hubtest.LabPolicy, 0o600)
	r.types("gangway trust import --data /var/lib/gangway /root/makers.pem")
	r.types("gangway policy set /root/lab-policy.yaml --data /var/lib/gangway")
}

// password is the password of Ada's account.
const password = "correct horse battery staple"

// account runs the command `create`, which makes Ada's account, and stores the hub's name that the
// command prints.
func (r *room) account(create string) {
	r.t.Helper()
	r.answers["Password: "], r.answers["Again: "] = password, password
	r.named(r.types(create))
}

// password returns the password that a command has generated and printed.
func (r *room) password(out string) string {
	r.t.Helper()
	m := regexp.MustCompile(`Password: (\S+)`).FindStringSubmatch(out)
	if m == nil {
		r.t.Fatalf("no password was printed: %s", short(out))
	}
	return m[1]
}

func (r *room) named(out string) {
	r.t.Helper()
	m := regexp.MustCompile(`--hub-name ([0-9a-f]{64})`).FindStringSubmatch(out)
	if m == nil {
		r.t.Fatalf("no hub name was printed: %s", short(out))
	}
	r.env = append(r.env, "HUB_NAME="+m[1])
}

// The method `nicked` changes the nick of the only device to the nick that the documentation uses.
func (r *room) nicked() {
	r.t.Helper()
	r.types("gangway device rename " + r.onlyID("gangway device ls --output json") + " brave-otter-3fa2")
}

// onlyID runs a command that prints a list with one entry, and returns the entry's id.
func (r *room) onlyID(command string) string {
	r.t.Helper()
	out := r.types(command)
	m := regexp.MustCompile(`"id": "([0-9a-f]{24})"`).FindAllStringSubmatch(out, -1)
	if len(m) != 1 {
		r.t.Fatalf("%d ids are listed, and one was expected: %s", len(m), short(out))
	}
	return m[0][1]
}

// The method `connected` waits until the running agent has reported to the hub.
func (r *room) connected() {
	r.t.Helper()
	r.connectedIn("/var/lib/gangway-agent")
}

// The method `connectedIn` does the same as the method `connected` for an agent with the state
// folder `state`.
func (r *room) connectedIn(state string) {
	r.t.Helper()
	r.mu.Lock()
	since := r.running["gangway-agent run"].started.Truncate(time.Second)
	r.mu.Unlock()
	reported := regexp.MustCompile(`(?m)^reported +(\S+),`)
	r.await("gangway-agent run", "it has reported to the hub", func() bool {
		out, err := r.run("gangway-agent status --state " + state)
		m := reported.FindStringSubmatch(out)
		if err != nil || m == nil {
			return false
		}
		at, err := time.Parse(time.RFC3339, m[1])
		return err == nil && !at.Before(since)
	})
}

// kernel puts the files of "gangway image fetch" where that command would put them. The sandbox has
// no network, so the command itself would fail.
func (r *room) kernel() {
	r.t.Helper()
	have := r.repository("build/installer-kernel")
	if _, err := os.Stat(filepath.Join(have, "vmlinuz")); err != nil {
		r.t.Skip("no installer kernel: make install-tools fetches it")
	}
	if err := os.MkdirAll("/root/.cache/gangway", 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Symlink(have, "/root/.cache/gangway/kernel"); err != nil && !os.IsExist(err) {
		r.t.Fatal(err)
	}
}

// aHub runs a hub, and gives the machine a TPM that the hub accepts. The hub has Ada's account, and
// Ada is signed in.
func (r *room) aHub() *swtpm.TPM {
	r.t.Helper()
	r.installed()
	tpm := r.hasTPM()
	r.types("gangway serve --data /var/lib/gangway --listen :12443 --url https://hub.example:12443")
	r.account("gangway account create --data /var/lib/gangway --nick ada")
	r.trusts(tpm)
	r.types("gangway login https://hub.example:12443 --hub-name $HUB_NAME --nick ada")
	return tpm
}

// aDevice onboards the machine. The token file remains in the sandbox.
func (r *room) aDevice() {
	r.t.Helper()
	r.types("gangway token create -o device_autojointoken.json")
	r.types("gangway-agent onboard --token-file device_autojointoken.json")
	r.nicked()
}

// trustsCA makes every program in the sandbox trust a CA in addition to the system's CAs.
func (r *room) trustsCA(ca *connectproxy.CA) {
	r.t.Helper()
	f, err := os.OpenFile("/etc/ssl/certs/ca-certificates.crt", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	if err := pem.Encode(f, &pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate.Raw}); err != nil {
		r.t.Fatal(err)
	}
}

// s3 runs an S3 service at https://s3.example with a bucket "fleet".
func (r *room) s3() {
	r.t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("fleet"); err != nil {
		r.t.Fatal(err)
	}
	ca := connectproxy.NewCA(r.t, "the CA of s3.example")
	r.trustsCA(ca)
	server := httptest.NewUnstartedServer(gofakes3.New(backend).Server())
	l, err := net.Listen("tcp", "127.0.0.1:443")
	if err != nil {
		r.t.Fatal(err)
	}
	server.Listener.Close()
	server.Listener, server.TLS = l, &tls.Config{Certificates: []tls.Certificate{*ca.Server(r.t, "s3.example")}}
	server.StartTLS()
	r.t.Cleanup(server.Close)
	r.stopS3 = server.Close
}

// postgres starts a PostgreSQL server with the user and the database of docs/operations.md.
func (r *room) postgres() {
	r.t.Helper()
	// The server must be durable. For a server that is not durable, `gangway doctor` would report a
	// problem.
	server, err := pgtest.Start(true)
	if errors.Is(err, pgtest.ErrMissing) {
		r.t.Skip(err)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(server.Stop)
	r.database = server
	statements := blockOf(r.t, "sql")
	if strings.Count(statements, ";") != 2 {
		r.t.Fatalf("docs/operations.md makes the role and the database with %q", statements)
	}
	for sql := range strings.SplitSeq(strings.TrimSpace(statements), "\n") {
		if _, err := server.Query(r.t.Context(), "postgres", sql); err != nil {
			r.t.Fatal(err)
		}
	}
	r.types("mkdir -p /run/postgresql")
	r.types(fmt.Sprintf("ln -s %s/.s.PGSQL.%d /run/postgresql/.s.PGSQL.5432", server.Folder, server.Port))
	r.writes("/etc/gangway/database-password", "a long random password\n", 0o600)
}

// The method `cancelsMove` starts the hub, begins to move its database, and cancels the move.
// Meanwhile, the hub's process is suspended, so the move cannot complete. Afterwards the database
// in PostgreSQL is empty again.
func (r *room) cancelsMove(move, cancel string) {
	r.t.Helper()
	r.types("gangway serve --data /var/lib/gangway --listen :12443 --url https://hub.example:12443")
	r.mu.Lock()
	hub := r.running["gangway serve"].cmd.Process.Pid
	r.mu.Unlock()
	if err := syscall.Kill(hub, syscall.SIGSTOP); err != nil {
		r.t.Fatal(err)
	}
	// When the file database.json exists, the copy is complete, and the hub should now change to
	// PostgreSQL.
	r.types(move + " & move=$!; until [ -e /var/lib/gangway/database.json ]; do kill -0 $move || exit 1; sleep 0.1; done; kill $move; ! wait $move")
	if out := r.types(cancel); !strings.Contains(out, "The move of the database is cancelled") {
		r.t.Errorf("the cancelled move prints %s", short(out))
	}
	if err := syscall.Kill(hub, syscall.SIGCONT); err != nil {
		r.t.Fatal(err)
	}
	_, create, _ := strings.Cut(strings.TrimSpace(blockOf(r.t, "sql")), "\n")
	for _, sql := range []string{"DROP DATABASE gangway", create} {
		if _, err := r.database.Query(r.t.Context(), "postgres", sql); err != nil {
			r.t.Fatal(err)
		}
	}
}

// The method `cloned` copies the TPM's state to a second machine and runs both. Both machines
// report to the hub, so the hub gets evidence of the clone.
func (r *room) cloned(tpm *swtpm.TPM) {
	r.t.Helper()
	dir := filepath.Dir(strings.TrimPrefix(tpm.Address(), "unix:"))
	tpm.Stop()
	other := r.t.TempDir()
	if err := os.CopyFS(other, os.DirFS(dir)); err != nil {
		r.t.Fatal(err)
	}
	r.types("cp -a /var/lib/gangway-agent /var/lib/other-agent")
	if err := tpm.Restart(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	copied, err := swtpm.New(r.t.Context(), other, swtpm.Options{EK: swtpm.None})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(copied.Stop)
	if err := copied.Restart(r.t.Context()); err != nil { // so the copy has one more TPM reset than the original
		r.t.Fatal(err)
	}
	// Let the first machine report, then the second, then the first again. The two TPMs have
	// separate clocks and counters after the copy. So the last report contradicts the second
	// report, and only a clone can cause this.
	r.types("gangway-agent run")
	r.connected()
	r.types("gangway-agent run --state /var/lib/other-agent --tpm " + copied.Address())
	r.connectedIn("/var/lib/other-agent")
	r.types("gangway-agent run")
	r.connected()
}

// certificate writes three files: a certificate for a host (path + ".crt"), the certificate's key
// (path + ".key"), and the certificate of the CA (path + ".ca").
func (r *room) certificate(host, path string) {
	r.t.Helper()
	ca := connectproxy.NewCA(r.t, "the CA of "+host)
	pair := ca.Server(r.t, host)
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		r.t.Fatal(err)
	}
	r.writes(path+".crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})), 0o644)
	r.writes(path+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})), 0o600)
	r.writes(path+".ca", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate.Raw})), 0o644)
}
