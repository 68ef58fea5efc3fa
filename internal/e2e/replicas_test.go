package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/objects"
	onboarding "gangway/hub/onboard"
	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/hub/store/postgres"
	"gangway/hub/store/postgres/pgtest"
	"gangway/hub/trust"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
)

// replica is one of several hubs on one PostgreSQL database.
type replica struct {
	t        *testing.T
	database string
	url      string // URL of the load balancer
	addr     string // address of the replica
	dir      string // data folder, with the replica's copy of the keys
	objects  objects.Store
	maker    *fleet.Maker

	ca    *pki.Hub
	store *postgres.Store
	conns atomic.Int32 // accepted connections
	// atStart is the number of accepted connections before the replica started again.
	atStart int32
	stop    context.CancelFunc
	done    chan error
}

// countingListener counts the connections that it accepts.
type countingListener struct {
	net.Listener
	n *atomic.Int32
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.n.Add(1)
	}
	return c, err
}

// start starts the replica, as a new process.
func (r *replica) start() {
	r.t.Helper()
	check := func(err error) {
		r.t.Helper()
		if err != nil {
			r.t.Fatal(err)
		}
	}
	var err error
	r.ca, err = pki.Open(filepath.Join(r.dir, "pki"), pki.Options{Name: "Test"})
	check(err)
	r.store, err = postgres.Open(r.t.Context(), postgres.Config{URL: r.database})
	check(err)
	log := slog.New(slog.DiscardHandler)
	service := &onboarding.Service{Store: r.store, CA: r.ca, Log: log, Now: time.Now, PublicURL: r.url}
	service.SetTrust(trust.NewSet(trust.FromX509("test", r.maker.Roots(), r.maker.Intermediates())...))
	server, err := api.New(api.Config{
		Store: r.store, CA: r.ca, Onboard: service, Objects: r.objects, Log: log, Now: time.Now, PublicURL: r.url, Names: []string{"127.0.0.1"},
		Rates: api.Rates{"onboard": {PerSecond: 1e6, Burst: 1e6}}, ProxyProtocol: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
		Replicas: true, Drain: 1200 * time.Millisecond, ObjectsAt: "shared",
	})
	check(err)
	l, err := net.Listen("tcp", r.addr)
	check(err)
	r.atStart = r.conns.Load()
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	done := make(chan error, 1)
	r.done = done
	go func() { done <- errors.Join(server.Serve(ctx, countingListener{l, &r.conns}), r.store.Close()) }()
}

// The method `noticed` waits until HAProxy knows that the replica is ready. HAProxy makes each
// health check on a new connection. So the third connection since the start comes after a
// successful health check.
func (r *replica) noticed() {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); r.conns.Load() < r.atStart+3; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatal("HAProxy does not check the replica")
		}
	}
}

// end sends SIGTERM to the replica, and waits until it has ended.
func (r *replica) end() {
	r.t.Helper()
	r.stop()
	if err := <-r.done; err != nil {
		r.t.Error(err)
	}
}

// While devices onboard and report, two hubs restart one after the other behind HAProxy, which has
// the configuration of docs/operations.md. No onboarding and no report fails.
func TestReplicasRestartWithoutAFailure(t *testing.T) {
	if testing.Short() {
		t.Skip("starts PostgreSQL and HAProxy")
	}
	t.Parallel()
	if _, err := exec.LookPath("haproxy"); err != nil {
		t.Skipf("%v: scripts/install.sh installs it", err)
	}
	server, err := pgtest.Start(false)
	if errors.Is(err, pgtest.ErrMissing) {
		t.Skip(err)
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(err)
	t.Cleanup(server.Stop)
	check(server.MakeTemplate(t.Context()))
	database := server.URL(server.Database(t))
	maker, err := fleet.NewMaker("good", fleet.MakerOptions{})
	check(err)

	files, err := objects.OpenFolder(t.TempDir())
	check(err)
	t.Cleanup(func() { files.Close() })
	keys := t.TempDir()
	_, err = pki.Open(filepath.Join(keys, "pki"), pki.Options{Name: "Test"}) // creates the keys
	check(err)
	replicas := [2]*replica{}
	var addrs []string
	for i := range replicas {
		dir := t.TempDir()
		check(os.CopyFS(filepath.Join(dir, "pki"), os.DirFS(filepath.Join(keys, "pki"))))
		check(filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				err = os.Chmod(path, 0o600)
			}
			return err
		}))
		check(os.Chmod(filepath.Join(dir, "pki"), 0o700))
		l, err := net.Listen("tcp", "127.0.0.1:0")
		check(err)
		check(l.Close())
		replicas[i] = &replica{t: t, database: database, addr: l.Addr().String(), dir: dir, objects: files, maker: maker}
		addrs = append(addrs, l.Addr().String())
	}
	front, haproxy := startHAProxy(t, replicaConfig(t, keys, addrs))
	for _, r := range replicas {
		r.url = front
		r.start()
	}
	for _, r := range replicas {
		r.noticed()
	}
	owner := hubtest.NewAccount("ada", time.Now())
	db := replicas[0].store
	check(db.CreateAccount(t.Context(), owner))
	check(db.PutPolicy(t.Context(), store.Policy{Owner: store.HubWide, Text: hubtest.LabPolicy, Updated: time.Now()}))
	row, token, err := onboarding.NewToken(replicas[0].ca, front, store.JoinToken{Owner: owner.ID, Nick: "fleet", Created: time.Now(), Expires: time.Now().Add(time.Hour)})
	check(err)
	check(db.CreateJoinToken(t.Context(), row))

	const devices = 50
	var onboarded, reports, moved atomic.Int32
	stopping, stopped := context.WithCancel(t.Context())
	defer stopped()
	var running sync.WaitGroup
	for i := range devices {
		d, err := fleet.New(maker, "H-2")
		check(err)
		running.Go(func() {
			time.Sleep(time.Duration(i) * 50 * time.Millisecond)
			hub, err := fleet.NewHub(token) // each device has its own connections, like a machine
			if err != nil {
				t.Error(err)
				return
			}
			defer hub.Close()
			certs, err := d.Onboard(t.Context(), hub, token)
			if err != nil {
				t.Errorf("device %d does not onboard: %v", i, err)
				return
			}
			onboarded.Add(1)
			var conn *fleet.Conn
			for stopping.Err() == nil {
				if conn, err = report(t.Context(), conn, hub, d, certs, &moved); err != nil {
					t.Errorf("device %d: %v", i, err)
					return
				}
				reports.Add(1)
				time.Sleep(150 * time.Millisecond)
			}
			if conn != nil {
				conn.Close()
			}
		})
	}
	time.Sleep(600 * time.Millisecond)
	for _, r := range replicas {
		r.end()
		r.start()
		r.noticed()
	}
	for deadline := time.Now().Add(20 * time.Second); onboarded.Load() < devices && !t.Failed() && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	stopped()
	running.Wait()
	db = replicas[0].store
	n, err := db.CountDevices(t.Context(), owner.ID)
	check(err)
	used, err := db.JoinToken(t.Context(), token.ID)
	check(err)
	if n != devices || used.Uses != devices || onboarded.Load() != devices {
		t.Errorf("%d devices and %d uses of the token after %d onboardings", n, used.Uses, onboarded.Load())
	}
	for i, r := range replicas {
		if r.conns.Load() < 10 {
			t.Errorf("replica %d had only %d connections", i, r.conns.Load())
		}
		r.end()
	}
	if moved.Load() == 0 {
		t.Error("no device had to change the replica, so the test shows nothing")
	}
	if t.Failed() {
		t.Logf("HAProxy says: %s", haproxy.Tail())
	}
	t.Logf("%d onboardings, %d reports, %d changes of a connection", onboarded.Load(), reports.Load(), moved.Load())
}

// report sends a request on the device's connection. If the hub has ended the connection,
// `report` connects again, as the agent does, and sends the request again. Then it must succeed.
func report(ctx context.Context, conn *fleet.Conn, hub *fleet.Hub, d *fleet.Device, certs *fleet.Certificates, moved *atomic.Int32) (*fleet.Conn, error) {
	send := func() error {
		a, err := conn.Do(ctx, "PATCH", "/device/meta", []byte(`{"beat":"1"}`))
		if err == nil && a.Status != 200 {
			return fmt.Errorf("a report: %d %s", a.Status, a.Body)
		}
		return err
	}
	if conn != nil {
		err := send()
		if err == nil {
			return conn, nil
		}
		conn.Close()
		moved.Add(1)
	}
	var err error
	if conn, err = hub.Dial(ctx, certs.TLS(d)); err != nil {
		return nil, err
	}
	return conn, send()
}

// replicaConfig returns the configuration of docs/operations.md for replicas at these addresses. It
// leaves out the retries of HAProxy, so that HAProxy hides no refused connection.
func replicaConfig(t *testing.T, keys string, addrs []string) string {
	t.Helper()
	return strings.NewReplacer("inter 1s", "inter 150ms", "retries 3", "retries 0", "option redispatch", "").Replace(documentedReplicas(t, keys, addrs))
}

// documentedReplicas returns the configuration of docs/operations.md for replicas at these
// addresses. If the folder `keys` has no keys of a hub, the function makes keys there.
func documentedReplicas(t *testing.T, keys string, addrs []string) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, config, ok := strings.Cut(string(page), "```haproxy\n# Replicas")
	config, _, closed := strings.Cut(config, "```")
	config, _, listed := strings.Cut(config, "    server a a.internal:12443")
	if !ok || !closed || !listed {
		t.Fatal("docs/operations.md has no configuration for replicas")
	}
	ca := filepath.Join(keys, "hub-ca.pem")
	hub, err := pki.Open(filepath.Join(keys, "pki"), pki.Options{Name: "Test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ca, hub.RootPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	config = "# Replicas" + strings.NewReplacer("/etc/haproxy/hub-ca.pem", ca, "bind :12443", "bind fd@3").Replace(config)
	for i, addr := range addrs {
		config += fmt.Sprintf("    server replica%d %s\n", i, addr)
	}
	return config
}
