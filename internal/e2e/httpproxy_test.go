package e2e_test

import (
	"context"
	"encoding/binary"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"gangway/device/agent"
	"gangway/internal/connectproxy"
	"gangway/internal/swtpm"
)

// A device that can reach its hub only through an HTTP proxy onboards and reports. All its
// connections go through the proxy.
func TestDeviceComesAboardThroughAProxy(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	tok := h.Token(t, h.Owner, nil)
	ca := connectproxy.NewCA(t, "proxy")
	real := strings.TrimPrefix(tok.Hub, "https://")
	far := strings.Replace(real, "127.0.0.1", "10.0.2.2", 1) // an unreachable address that the hub's certificate contains
	tok.Hub = "https://" + far
	p := connectproxy.New(t, connectproxy.Config{TLS: ca.Server(t, "127.0.0.1"), Name: "ada", Password: "p@ss/word", To: map[string]string{far: real}})
	state := t.TempDir()
	cfg := agent.Config{Token: tok, TPM: tpm.Address(), StateDir: state, ReportEvery: 100 * time.Millisecond,
		Proxy: &agent.HTTPProxy{URL: &url.URL{Scheme: "https", Host: p.Addr, User: url.UserPassword("ada", "p@ss/word")}}}
	cfg.Proxy.CA = append(cfg.Proxy.CA, ca.Certificate)
	if _, err := onboardWith(t, cfg); err != nil {
		t.Fatal(err)
	}
	a, err := agent.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	for {
		if devices := h.Devices(t, h.Owner); len(devices) == 1 && devices[0].DeviceMeta["gangway.uptime-s"] != nil {
			break
		}
		select {
		case err := <-done:
			t.Fatal(err)
		case <-ctx.Done():
			t.Fatal("the device does not report")
		case <-time.After(50 * time.Millisecond):
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(p.Seen()) < 3 { // connections for the request, the activation, and the report
		t.Errorf("the proxy made the connections %q, want at least 3", p.Seen())
	}
	for _, address := range p.Seen() {
		if address != far {
			t.Errorf("the proxy was asked to connect to %s, want %s", address, far)
		}
	}
}

// The agent asks the time servers of the network settings before it connects to the hub.
func TestTimeServerIsAskedBeforeTheHub(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	asked := make(chan bool, 1)
	go func() {
		b := make([]byte, 1024)
		n, from, err := c.ReadFrom(b)
		if err != nil || n < 48 {
			return
		}
		asked <- len(h.Devices(t, h.Owner)) == 0
		answer := make([]byte, 48)
		answer[0], answer[1] = 4<<3|4, 1
		copy(answer[24:32], b[40:48])
		binary.BigEndian.PutUint32(answer[40:], uint32(time.Now().Add(time.Hour).Unix()+2208988800))
		c.WriteTo(answer, from)
	}()
	var set []time.Duration
	_, err = onboardWith(t, agent.Config{Token: h.Token(t, h.Owner, nil), TPM: tpm.Address(), StateDir: t.TempDir(),
		NTP:      []string{"127.0.0.1:9", c.LocalAddr().String()}, // the first time server does not answer
		SetClock: func(is time.Time) error { set = append(set, time.Until(is)); return nil }})
	if err != nil {
		t.Fatal(err)
	}
	if len(set) != 1 || (set[0]-time.Hour).Abs() > time.Minute {
		t.Errorf("the clock was moved by %v, want once by an hour", set)
	}
	if !<-asked {
		t.Error("the agent onboarded before it asked the time server")
	}
}
