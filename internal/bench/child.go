package main

import (
	"bufio"
	"context"
	"crypto/tls"
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
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"gangway/hub/api"
	"gangway/hub/objects"
	"gangway/hub/pki"
	"gangway/internal/fleet"
	"gangway/internal/memory"
	"gangway/wire"

	"golang.org/x/sys/unix"
)

// child is another process of this program, which runs one server: a whole hub, or a server that
// does only TLS handshakes.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	// tok is the token file of the hub. For a server of handshakes and for a hub of a fleet, it has
	// only the address and the CA.
	tok *wire.TokenFile
}

// startChild starts this program with the flag `as` and the folder `dir`, and with further flags.
func startChild(as, dir string, more ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.Command(self, append([]string{as, dir}, more...)...), tok: new(wire.TokenFile)}
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	pipe, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReader(pipe)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := c.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, c.tok)
	}
	if err != nil {
		c.kill()
		return nil, fmt.Errorf("start the process with %s: %w", as, err)
	}
	return c, nil
}

// cpu returns the CPU time that the process has used.
func (c *child) cpu() (time.Duration, error) {
	var t unix.Timespec
	// The number of the process's CPU clock (CPUCLOCK_SCHED); see clock_getcpuclockid(3).
	if err := unix.ClockGettime(int32(^c.cmd.Process.Pid<<3|2), &t); err != nil {
		return 0, err
	}
	return time.Duration(t.Nano()), nil
}

// The method `spent` runs the function `f` and returns the CPU time that the process uses in the
// meantime.
func (c *child) spent(f func() error) (time.Duration, error) {
	before, err := c.cpu()
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	after, err := c.cpu()
	return after - before, err
}

// resident makes the process collect its garbage and return free memory to the system. Then it
// returns the process's resident memory in bytes.
func (c *child) resident() (int64, error) {
	if _, err := io.WriteString(c.in, "free\n"); err != nil {
		return 0, err
	}
	if _, err := c.out.ReadBytes('\n'); err != nil {
		return 0, err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", c.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	var size, pages int64
	_, err = fmt.Sscan(string(b), &size, &pages)
	return pages * int64(os.Getpagesize()), err
}

// stop ends the process and waits for it.
func (c *child) stop() error {
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	io.Copy(io.Discard, c.out)
	return c.cmd.Wait()
}

func (c *child) kill() {
	c.cmd.Process.Kill()
	c.cmd.Wait()
}

// serveFrees frees this process's memory each time the parent process asks for it with a line on
// the standard input.
func serveFrees() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		// Each garbage collection halves the stacks of idle goroutines. A hub collects its garbage
		// at least every two minutes. So after four collections, this process uses about as much
		// memory as a hub does after some idle minutes.
		for range 4 {
			runtime.GC()
		}
		debug.FreeOSMemory()
		fmt.Println("freed")
	}
}

// writeMaker writes the certificates of the maker's CA to the folder `dir`, for readMaker.
func writeMaker(dir string, maker *fleet.Maker) error {
	for name, c := range map[string]*x509.Certificate{"root.pem": maker.Root, "intermediate.pem": maker.Intermediate} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func readMaker(dir string) (*fleet.Maker, error) {
	maker := new(fleet.Maker)
	for name, p := range map[string]**x509.Certificate{"root.pem": &maker.Root, "intermediate.pem": &maker.Intermediate} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(b)
		if *p, err = x509.ParseCertificate(block.Bytes); err != nil {
			return nil, err
		}
	}
	return maker, nil
}

// serveChild runs in a separate process. It serves a hub that trusts the maker whose CA is in the
// folder `dir`. If `database` is not empty, this is the hub of a fleet: see openFleetHub.
func serveChild(dir, database, devices string) error {
	memory.Use()
	maker, err := readMaker(dir)
	if err != nil {
		return err
	}
	var h *testHub
	if database == "" {
		h, err = openHub(maker, dir)
	} else {
		h, err = openFleetHub(maker, dir, database, devices)
	}
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	h.token.Hub = "https://" + l.Addr().String()
	h.service.PublicURL = h.token.Hub
	folder, err := os.MkdirTemp(dir, "objects-") // another hub may have the same folder `dir`
	if err != nil {
		return err
	}
	contents, err := objects.OpenFolder(folder)
	if err != nil {
		return err
	}
	s, err := api.New(api.Config{Store: h.store, CA: h.ca, Onboard: h.service, Objects: contents, Log: slog.New(slog.DiscardHandler), Now: time.Now,
		PublicURL: h.token.Hub, Names: []string{"127.0.0.1"}, Rates: api.Rates{"onboard": {PerSecond: 1e6, Burst: 1e6}}, Replicas: database != ""})
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(h.token); err != nil {
		return err
	}
	endProfile, err := startProfile("server")
	if err != nil {
		return err
	}
	defer endProfile()
	go serveFrees()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return errors.Join(s.Serve(ctx, l), h.store.Close(), contents.Close())
}

// handshakeChild runs in a separate process. It does only TLS handshakes, with the certificate of
// the hub in the folder `dir` and this hub's CA for client certificates. It sends no session
// tickets.
func handshakeChild(dir string) error {
	memory.Use() // as in the hub, so that both collect garbage equally often
	ca, err := pki.Open(filepath.Join(dir, "pki"), pki.Options{})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, GetCertificate: ca.TLSCertificate(time.Now, []string{"127.0.0.1"}),
		ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: ca.ClientCAs(), SessionTicketsDisabled: true,
	}
	if err := json.NewEncoder(os.Stdout).Encode(wire.TokenFile{Hub: "https://" + l.Addr().String(), HubCA: string(ca.RootPEM())}); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { l.Close() })
	for {
		c, err := l.Accept()
		if err != nil {
			return nil
		}
		go func() {
			defer c.Close()
			t := tls.Server(c, config)
			if t.Handshake() == nil {
				t.Close()
			}
		}()
	}
}
