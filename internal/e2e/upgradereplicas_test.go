package e2e_test

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/hub/pki"
	"gangway/hub/store/postgres/pgtest"
	"gangway/internal/connectproxy"
	"gangway/internal/fleet/load"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// rolling has two replicas of a hub, in separate processes. A test upgrades them one after the
// other.
type rolling struct {
	*programs
	database, bucket string // URLs
	env              []string
}

// bucket starts an S3 service with the bucket "fleet", and returns its URL and the path of a file
// with its CA certificate.
func bucket(t *testing.T) (url, ca string) {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("fleet"); err != nil {
		t.Fatal(err)
	}
	authority := connectproxy.NewCA(t, "the CA of the bucket")
	server := httptest.NewUnstartedServer(gofakes3.New(backend).Server())
	server.TLS = &tls.Config{Certificates: []tls.Certificate{*authority.Server(t, "localhost")}}
	server.StartTLS()
	t.Cleanup(server.Close)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Certificate.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return strings.Replace(server.URL, "127.0.0.1", "localhost", 1), ca
}

// serveReplica starts a replica with the current program, and waits until it is ready and HAProxy
// has noticed it. It returns a function that stops the replica as systemd does.
func (r *rolling) serveReplica(dir, address, metrics string, options ...string) (stop func()) {
	r.t.Helper()
	c := exec.Command(r.gangway, append([]string{"serve", "--data", dir, "--listen", address, "--url", r.url, "--metrics-listen", metrics, "--database", r.database,
		"--s3-endpoint", r.bucket, "--s3-bucket", "fleet", "--s3-region", "us-east-1", "--proxy-protocol-from", "127.0.0.1", "--drain", "2s",
		"--tpm-roots", "maker/root.pem", "--tpm-intermediates", "maker/intermediate.pem", "--rate", "onboard=1000/1000"}, options...)...)
	c.Dir, c.Env = r.home, append(os.Environ(), r.env...)
	stop = startHub(r.t, c, metrics)
	time.Sleep(2 * time.Second) // HAProxy checks a replica every 150 ms
	return stop
}

// Two replicas of an earlier commit on one PostgreSQL database, behind HAProxy, are upgraded one
// after the other while devices onboard, report and send log lines. In between, replicas of both
// versions serve the same devices. No operation fails, and nothing is lost.
func TestUpgradeReplicasUnderLoad(t *testing.T) {
	commit := os.Getenv("GANGWAY_UPGRADE_REPLICAS_FROM")
	if commit == "" {
		t.Skip("it builds an earlier commit: make upgrade-test runs it")
	}
	if _, err := exec.LookPath("haproxy"); err != nil {
		t.Skipf("%v: scripts/install.sh installs it", err)
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	server, err := pgtest.Start(false)
	check(err)
	t.Cleanup(server.Stop)
	_, err = server.Query(t.Context(), "postgres", "CREATE DATABASE upgrade")
	check(err)
	built, err := filepath.Abs("../../build")
	check(err)
	home := t.TempDir()
	r := &rolling{programs: &programs{t: t, home: home, gangway: buildCommit(t, commit), fleet: filepath.Join(built, "gangway-fleet")}, database: server.URL("upgrade")}
	bucketURL, ca := bucket(t)
	r.bucket, r.env = bucketURL, []string{"SSL_CERT_FILE=" + ca, "AWS_ACCESS_KEY_ID=key", "AWS_SECRET_ACCESS_KEY=secret"}
	t.Setenv("GANGWAY_DATABASE", r.database) // for the commands that take --data
	if out, err := r.run("", r.fleet, "maker", "maker"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}

	// Both replicas have the same keys.
	dirs, addresses, metrics := [2]string{}, []string{freeAddress(t), freeAddress(t)}, [2]string{freeAddress(t), freeAddress(t)}
	keys := t.TempDir()
	_, err = pki.Open(filepath.Join(keys, "pki"), pki.Options{Name: "Test"})
	check(err)
	front, haproxy := startHAProxy(t, replicaConfig(t, keys, addresses))
	r.url = front
	var stop [2]func()
	for i := range dirs {
		dirs[i] = filepath.Join(home, "replica-"+string(rune('a'+i)))
		check(os.CopyFS(filepath.Join(dirs[i], "pki"), os.DirFS(filepath.Join(keys, "pki"))))
		makePrivate(t, dirs[i])
		var options []string
		if i == 0 {
			options = []string{"--new-database"} // the keys are older than the database
		}
		stop[i] = r.serveReplica(dirs[i], addresses[i], metrics[i], options...)
	}
	r.data = dirs[0]

	const password = "correct horse battery staple\n"
	check(os.WriteFile(filepath.Join(home, "policy.yaml"), []byte("version: 1\nsoftware_tpms: [FAKE]\n"), 0o600))
	r.must("", "policy", "set", "policy.yaml", "--data", r.data)
	r.must(password, "account", "create", "--data", r.data, "--nick", "ada", "--password-stdin")
	r.must(password, "login", r.url, "--data", r.data, "--nick", "ada", "--password-stdin")
	r.must("", "token", "create", "-o", "t.json")
	const aboard, all = 20, 120
	r.load(true, "--devices", fmt.Sprint(aboard), "--mix", "report=10/s", "--for", "3s")

	during := make(chan load.Report)
	go func() {
		during <- r.load(true, "--devices", fmt.Sprint(all), "--onboarded", fmt.Sprint(aboard), "--mix", "onboard=2/s,report=10/s,logs=2/s", "--for", "30s")
	}()
	time.Sleep(4 * time.Second)
	r.gangway = filepath.Join(built, "gangway")
	for _, i := range []int{1, 0} { // as docs/operations.md says: first replica B
		stop[i]()
		began := time.Now()
		stop[i] = r.serveReplica(dirs[i], addresses[i], metrics[i])
		t.Logf("the new replica %d was ready after %s", i, time.Since(began).Round(time.Millisecond))
		time.Sleep(2 * time.Second)
	}
	report := <-during
	for _, k := range report.Kinds {
		if len(k.Errors) > 0 || k.OK == 0 {
			t.Errorf("%s: %d succeeded, and these failed: %v", k.Kind, k.OK, k.Errors)
		}
	}
	if t.Failed() {
		t.Logf("HAProxy says: %s", haproxy.Tail())
	}
	if n := r.devices(); n != report.Active || report.Active <= aboard {
		t.Errorf("%d devices are active; the replicas acknowledged %d, of which %d before the upgrade", n, report.Active, aboard)
	}
	t.Logf("%d devices onboarded during the upgrade", report.Active-aboard)
	after := r.load(true, "--devices", fmt.Sprint(report.Active), "--mix", "report=20/s", "--for", "3s")
	for _, k := range after.Kinds {
		if len(k.Errors) > 0 {
			t.Errorf("%s after the upgrade: %v", k.Kind, k.Errors)
		}
	}
	for i := range stop {
		stop[i]()
	}
	c := exec.Command(r.gangway, "fsck", "--data", r.data, "--s3-endpoint", r.bucket, "--s3-bucket", "fleet", "--s3-region", "us-east-1")
	c.Env = append(os.Environ(), r.env...)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Run(); err != nil {
		t.Errorf("gangway fsck: %v: %s", err, out.String())
	}
}
