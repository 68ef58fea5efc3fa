package main

import (
	"context"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"gangway/internal/fleet"
	"gangway/wire"
)

// gangway is `gangway serve`.
type gangway struct {
	server   *process
	material *material
	token    *wire.TokenFile
}

func (g *gangway) process() *process { return g.server }

func startGangway(dir, bin string, m *material) (peer, error) {
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	makers := filepath.Join(dir, "makers.pem")
	text := append(certPEM(m.maker.Root.Raw), certPEM(m.maker.Intermediate.Raw)...)
	if err := os.WriteFile(makers, text, 0o600); err != nil {
		return nil, err
	}
	program, data := filepath.Join(bin, "gangway"), filepath.Join(dir, "data")
	// All devices have the address 127.0.0.1, so the rate limit is higher than usual.
	p, err := startProcess(dir, addr, program, "serve", "--data", data, "--listen", addr, "--rate", "onboard=1000000/1000000")
	if err != nil {
		return nil, err
	}
	g := &gangway{server: p, material: m}
	const password = "correct horse battery\n"
	for _, c := range []struct {
		in   string
		args []string
	}{
		{"", []string{"trust", "import", "--data", data, makers}},
		{password, []string{"account", "create", "--data", data, "--nick", "ada", "--password-stdin"}},
		{password, []string{"login", "https://" + addr, "--data", data, "--nick", "ada", "--password-stdin"}},
		{"version: 1\nsoftware_tpms: [FAKE]\n", []string{"policy", "set", "-", "--data", data}},
		{"", []string{"token", "create"}},
	} {
		cmd := exec.Command(program, c.args...)
		cmd.Env, cmd.Stdin = append(os.Environ(), "XDG_CONFIG_HOME="+dir), strings.NewReader(c.in)
		out, err := output(cmd)
		if err == nil && c.args[0] == "token" {
			g.token, err = wire.ParseTokenFile(out)
		}
		if err != nil {
			p.stop()
			return nil, fmt.Errorf("%s: %w", strings.Join(c.args[:2], " "), err)
		}
	}
	return g, nil
}

// identity onboards a device. The device can use its new certificate only after the activation,
// which is the first request with this certificate.
func (g *gangway) identity(ctx context.Context, _ int, _ bool) error {
	hub, err := fleet.NewHub(g.token)
	if err != nil {
		return err
	}
	defer hub.Close()
	d, err := fleet.New(g.material.maker, "H-2") // another TPM for each device; an EK on P-256 is fast to make
	if err != nil {
		return err
	}
	request, err := d.Request(g.token, fleet.RequestChange{})
	if err != nil {
		return err
	}
	c, err := d.Enrol(ctx, hub, request)
	if err != nil {
		return err
	}
	a, err := d.Activate(ctx, hub, c)
	if err == nil && a.Status != 200 {
		err = fmt.Errorf("activation: status %d: %s", a.Status, a.Body)
	}
	return err
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
