// Package e2e_test runs the whole of Gangway against real parts: a hub over
// TLS, the agent, and software TPMs of swtpm.
package e2e_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"gangway/agent"
	"gangway/fleet"
	"gangway/internal/hubtest"
)

func TestFleetOnboards(t *testing.T) {
	maker, err := fleet.NewMaker("good", fleet.MakerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h := hubtest.New(t, maker.Roots(), maker.Intermediates())
	tok := h.Token(t, h.Owner, nil)
	hub, err := fleet.NewHub(tok)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, ek := range []string{"L-1", "H-2", "H-3"} {
		d, err := fleet.New(maker, ek)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Onboard(ctx, hub, tok); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range h.Devices(t, h.Owner) {
		t.Logf("%+v", d)
	}
	if n := h.Uses(t, tok); n != 3 {
		t.Errorf("%d uses", n)
	}
	_ = agent.Config{}
	_ = filepath.Join
}
