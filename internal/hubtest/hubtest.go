// Package hubtest starts a whole hub for tests: its CAs, its database and its TLS listener on
// loopback. A test can move the hub's clock.
package hubtest

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/objects"
	"gangway/hub/onboard"
	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/hub/store/sqlite"
	"gangway/hub/store/sqlite/sqlitetest"
	"gangway/hub/trust"
	"gangway/wire"

	"golang.org/x/crypto/argon2"
)

// Hub is a running hub.
type Hub struct {
	URL     string
	Store   *sqlite.Store
	CA      *pki.Hub
	Service *onboard.Service
	Owner   store.Account // an account with the password Password
	Server  *api.Server
	Objects objects.Store
	Stop    func() // begins to stop the hub, as a signal does

	dir    string
	makers *trust.Set
	ahead  atomic.Int64 // nanoseconds by which the hub's clock is ahead of the real time
}

// DeviceCAKey reads the device CA's private key from the data folder, as a thief of the hub's disk
// could do.
func (h *Hub) DeviceCAKey(t testing.TB) crypto.Signer {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(h.dir, "pki", "device-ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key.(crypto.Signer)
}

// Password is the password of the accounts that Account makes.
const Password = "correct horse battery"

// New starts a hub with one owner. The hub trusts the given CA certificates of TPM makers, and
// stops when the test ends.
func New(t testing.TB, roots, intermediates []*x509.Certificate) *Hub {
	t.Helper()
	return NewWith(t, nil, roots, intermediates)
}

// NewBehind does the same as New for a hub behind a proxy that terminates TLS.
func NewBehind(t testing.TB, proxy *api.Proxy, roots, intermediates []*x509.Certificate) *Hub {
	t.Helper()
	return NewWith(t, func(c *api.Config) { c.Proxy = proxy }, roots, intermediates)
}

// NewWith does the same as New, but first calls `change` to alter the hub's configuration.
func NewWith(t testing.TB, change func(*api.Config), roots, intermediates []*x509.Certificate) *Hub {
	t.Helper()
	return NewIn(t, t.TempDir(), change, roots, intermediates)
}

// NewIn does the same as NewWith, but uses the data folder `dir`.
func NewIn(t testing.TB, dir string, change func(*api.Config), roots, intermediates []*x509.Certificate) *Hub {
	t.Helper()
	h := Open(t, dir, change, roots, intermediates)
	h.Owner = h.Account(t, "ada")
	h.Policy(t, store.HubWide, LabPolicy)
	return h
}

// Open starts a hub on the data folder `dir`, which may be the data folder of an earlier hub. Open
// makes no account and no policy. If `change` is not nil, it alters the hub's configuration.
func Open(t testing.TB, dir string, change func(*api.Config), roots, intermediates []*x509.Certificate) *Hub {
	t.Helper()
	files, err := objects.OpenFolder(filepath.Join(dir, "objects"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := files.Close(); err != nil {
			t.Error(err)
		}
	})
	return start(t, &Hub{dir: dir, Objects: files}, change, roots, intermediates)
}

// Join starts a second hub on the same database and objects, like a process on another machine.
// Both hubs need api.Config.Replicas: Join sets it for the second hub, and the test must have set
// it for the first. Clients reach the second hub at its own URL, but its answers name the URL of
// the first hub, as behind a load balancer.
func (h *Hub) Join(t testing.TB) *Hub {
	t.Helper()
	joined := start(t, &Hub{dir: h.dir, Objects: h.Objects}, func(c *api.Config) {
		c.Replicas, c.PublicURL, c.Onboard.PublicURL = true, h.URL, h.URL
		c.Onboard.SetTrust(h.makers)
	}, nil, nil)
	joined.Owner = h.Owner
	return joined
}

// start starts the hub `h`, whose data folder and object store are already set.
func start(t testing.TB, h *Hub, change func(*api.Config), roots, intermediates []*x509.Certificate) *Hub {
	t.Helper()
	dir := h.dir
	var err error
	check := func() {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	h.CA, err = pki.Open(filepath.Join(dir, "pki"), pki.Options{Name: "Test"})
	check()
	database := filepath.Join(dir, "gangway.db")
	err = sqlitetest.CopyEmpty(database)
	check()
	db, err := sqlite.Open(t.Context(), database)
	check()
	h.Store = db
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check()
	h.URL = "https://" + l.Addr().String()
	log := h.Log()
	h.Service = &onboard.Service{Store: h.Store, CA: h.CA, Log: log, Now: h.Now, PublicURL: h.URL}
	h.makers = trust.NewSet(trust.FromX509("test", roots, intermediates)...)
	h.Service.SetTrust(h.makers)
	config := api.Config{
		Store: h.Store, CA: h.CA, Onboard: h.Service, Objects: h.Objects, Log: log, Now: h.Now, PublicURL: h.URL, DataDir: dir,
		Names: []string{"127.0.0.1", "10.0.2.2", "fec0::2"}, Rates: api.Rates{"onboard": {PerSecond: 1e6, Burst: 1e6}}, OpenRegistration: true, Version: "test",
	}
	if change != nil {
		change(&config)
	}
	h.Server, err = api.New(config)
	check()
	ctx, cancel := context.WithCancel(context.Background())
	h.Stop = cancel
	done := make(chan error, 1)
	go func() { done <- h.Server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := h.Store.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// LabPolicy is a policy that accepts the software TPMs of tests.
const LabPolicy = "version: 1\nsoftware_tpms: [swtpm, FAKE]\n"

// Policy stores the policy text of an owner, or of the whole hub if `owner` is store.HubWide.
func (h *Hub) Policy(t testing.TB, owner, text string) {
	t.Helper()
	if err := h.Store.PutPolicy(t.Context(), store.Policy{Owner: owner, Text: text, Updated: h.Now()}); err != nil {
		t.Fatal(err)
	}
}

// Log returns a logger that discards everything.
func (h *Hub) Log() *slog.Logger { return slog.New(slog.DiscardHandler) }

// Data returns the hub's data folder, for commands that run on the hub's machine.
func (h *Hub) Data() string { return h.dir }

// Replica returns a second instance of the hub's service. It has its own connection to the same
// database, like another process.
func (h *Hub) Replica(t testing.TB) *onboard.Service {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(h.dir, "gangway.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &onboard.Service{Store: db, CA: h.CA, Log: h.Service.Log, Now: h.Now, PublicURL: h.URL}
	s.SetTrust(h.makers)
	return s
}

// Now returns the time of the hub's clock, which Advance moves.
func (h *Hub) Now() time.Time { return time.Now().Add(time.Duration(h.ahead.Load())) }

// Advance moves the hub's clock forward by the duration `d`.
func (h *Hub) Advance(d time.Duration) { h.ahead.Add(int64(d)) }

// Account makes an account with this nick and the password Password.
func (h *Hub) Account(t testing.TB, nick string) store.Account {
	t.Helper()
	a := NewAccount(nick, h.Now())
	if err := h.Store.CreateAccount(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	return a
}

// NewAccount returns an account with this nick and the password Password. It does not store the
// account.
func NewAccount(nick string, created time.Time) store.Account {
	return store.Account{ID: wire.NewID(), Nick: nick, PasswordHash: passwordHash(), Created: created}
}

// passwordHash returns a hash of Password with fast parameters of argon2id. Most tests sign in, and
// a hash with the real parameters takes half a second under the race detector.
var passwordHash = sync.OnceValue(func() string {
	salt := []byte("sixteen bytes ok")
	key := argon2.IDKey([]byte(Password), salt, 1, 8, 1, 32)
	enc := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=8,t=1,p=1$%s$%s", argon2.Version, enc(salt), enc(key))
})

// Token makes a join token of an owner and returns its token file. If `change` is not nil, it
// alters the join token before the token is stored.
func (h *Hub) Token(t testing.TB, owner store.Account, change func(*store.JoinToken)) *wire.TokenFile {
	t.Helper()
	s, file, err := onboard.NewToken(h.CA, h.URL, store.JoinToken{Owner: owner.ID, Nick: "test", Created: h.Now(), Expires: h.Now().Add(24 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&s)
	}
	secret, err := file.Secret()
	if err != nil {
		t.Fatal(err)
	}
	if s.WithoutTPM {
		s.SecretHash = onboard.TokenSecretHash(secret)
	}
	if s.ForPantacor {
		if s.PantacorKey, err = onboard.SealOwnershipKey(h.CA, secret, s.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Store.CreateJoinToken(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return file
}

// Uses returns the number of times a join token was used.
func (h *Hub) Uses(t testing.TB, tok *wire.TokenFile) int {
	t.Helper()
	s, err := h.Store.JoinToken(t.Context(), tok.ID)
	if err != nil {
		t.Fatal(err)
	}
	return s.Uses
}

// Devices lists an owner's devices.
func (h *Hub) Devices(t testing.TB, owner store.Account) []store.Device {
	t.Helper()
	d, err := h.Store.Devices(t.Context(), owner.ID, "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
