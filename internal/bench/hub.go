package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"gangway/hub/api"
	"gangway/hub/objects"
	"gangway/hub/onboard"
	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/hub/store/sqlite"
	"gangway/hub/trust"
	"gangway/internal/fleet"
	"gangway/wire"
)

// testHub is a hub whose database is on a real disk, with one owner and one join token.
type testHub struct {
	dir     string
	store   *sqlite.Store
	ca      *pki.Hub
	service *onboard.Service
	token   *wire.TokenFile
}

// openHub makes a hub in the folder `dir`. If `dir` is empty, it makes a temporary folder below
// build/, because commits must go to a disk and /tmp is often in memory.
func openHub(maker *fleet.Maker, dir string) (*testHub, error) {
	if dir == "" {
		if err := os.MkdirAll("build", 0o755); err != nil {
			return nil, err
		}
		var err error
		if dir, err = os.MkdirTemp("build", "bench-"); err != nil {
			return nil, err
		}
	}
	h := &testHub{dir: dir}
	var err error
	if h.ca, err = pki.Open(filepath.Join(dir, "pki"), pki.Options{Name: "Bench"}); err != nil {
		return nil, err
	}
	if h.store, err = sqlite.Open(context.Background(), filepath.Join(dir, "gangway.db")); err != nil {
		return nil, err
	}
	h.service = &onboard.Service{Store: h.store, CA: h.ca, Log: slog.New(slog.DiscardHandler), Now: time.Now, PublicURL: "https://127.0.0.1"}
	h.service.SetTrust(trust.NewSet(trust.FromX509("bench", maker.Roots(), maker.Intermediates())...))
	if err := h.store.PutPolicy(context.Background(), store.Policy{Owner: store.HubWide, Text: labPolicy, Updated: time.Now()}); err != nil {
		return nil, err
	}
	h.token, err = newToken(h.store, h.ca)
	return h, err
}

// labPolicy accepts the emulated TPMs after the hub has evaluated some rules.
const labPolicy = `version: 1
software_tpms: [FAKE]
rules:
  - {maker: IFX, firmware_below: "7.85", then: refuse, reason: "known weaknesses"}
  - {maker: NTC, model: "NPCT6*", then: ask}
  - {maker: FAKE, then: accept}
  - {then: ask}
`

func newToken(s *sqlite.Store, ca *pki.Hub) (*wire.TokenFile, error) {
	owner := store.Account{ID: wire.NewID(), Nick: "owner" + wire.NewID()[:6], Created: time.Now()}
	if err := s.CreateAccount(context.Background(), owner); err != nil {
		return nil, err
	}
	t, file, err := onboard.NewToken(ca, "https://127.0.0.1", store.JoinToken{Owner: owner.ID, Created: time.Now(), Expires: time.Now().Add(24 * time.Hour)})
	if err != nil {
		return nil, err
	}
	return file, s.CreateJoinToken(context.Background(), t)
}

func (h *testHub) close() {
	h.store.Close()
	os.RemoveAll(h.dir)
}

// Server is the cost of a whole hub process, over TLS. Each enrolment has two connections: one for
// the request, and one with the device's certificate for the activation.
type Server struct {
	CPU        float64 `json:"cpu_per_enrolment"` // CPU time of the hub's process, in microseconds
	PerSecond  float64 `json:"enrolments_per_second"`
	Enrolments int     `json:"enrolments"`
	EK         string  `json:"ek"`
}

func measureServer(maker *fleet.Maker, n int) (*Server, error) {
	const ek = "H-2"
	dir, err := os.MkdirTemp("build", "bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	for name, c := range map[string]*x509.Certificate{"root.pem": maker.Root, "intermediate.pem": maker.Intermediate} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}), 0o600); err != nil {
			return nil, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	child := exec.Command(self, "-serve", dir)
	child.Stderr = os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	pipe, err := child.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := child.Start(); err != nil {
		return nil, err
	}
	defer child.Process.Kill()
	tok := new(wire.TokenFile)
	if err := json.NewDecoder(pipe).Decode(tok); err != nil {
		return nil, fmt.Errorf("start the hub's process: %w", err)
	}
	fmt.Fprintf(os.Stderr, "making %d emulated devices for a whole server ...\n", n)
	l, err := makeLoad(maker, ek, n, tok)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	start := time.Now()
	err = parallel(n, func(i int) error {
		client, err := fleet.NewHub(tok) // each device has its own connections
		if err != nil {
			return err
		}
		defer client.Close()
		c, err := l.devices[i].Enrol(ctx, client, l.requests[i])
		if err != nil {
			return err
		}
		a, err := l.devices[i].Activate(ctx, client, c)
		if err == nil && a.Status != 200 {
			err = fmt.Errorf("activation: status %d: %.200s", a.Status, a.Body)
		}
		return err
	})
	wall := time.Since(start)
	if err != nil {
		return nil, err
	}
	if err := child.Process.Signal(syscall.SIGTERM); err != nil {
		return nil, err
	}
	io.Copy(io.Discard, pipe)
	if err := child.Wait(); err != nil {
		return nil, err
	}
	u := child.ProcessState
	return &Server{CPU: micros(u.UserTime()+u.SystemTime(), n), PerSecond: float64(n) / wall.Seconds(), Enrolments: n, EK: ek}, nil
}

// serveChild runs in a separate process. It serves a hub that trusts the maker whose CA is in the
// folder `dir`.
func serveChild(dir string) error {
	maker := new(fleet.Maker)
	for name, p := range map[string]**x509.Certificate{"root.pem": &maker.Root, "intermediate.pem": &maker.Intermediate} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		block, _ := pem.Decode(b)
		if *p, err = x509.ParseCertificate(block.Bytes); err != nil {
			return err
		}
	}
	h, err := openHub(maker, dir)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	h.token.Hub = "https://" + l.Addr().String()
	h.service.PublicURL = h.token.Hub
	contents, err := objects.OpenFolder(filepath.Join(dir, "objects"))
	if err != nil {
		return err
	}
	s, err := api.New(api.Config{Store: h.store, CA: h.ca, Onboard: h.service, Objects: contents, Log: slog.New(slog.DiscardHandler), Now: time.Now,
		PublicURL: h.token.Hub, Names: []string{"127.0.0.1"}, Rates: api.Rates{"onboard": {PerSecond: 1e6, Burst: 1e6}}})
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(h.token); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return errors.Join(s.Serve(ctx, l), h.store.Close(), contents.Close())
}
