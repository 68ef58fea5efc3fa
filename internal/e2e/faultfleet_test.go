package e2e_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gangway/hub/pki"
	"gangway/internal/fleet"
	"gangway/wire"
)

// faultFleet has devices that onboard and report while faults happen.
type faultFleet struct {
	t       *testing.T
	token   *wire.TokenFile
	devices []*faultDevice
	running sync.WaitGroup
	stop    context.CancelFunc // ends the reports
	ctx     context.Context    // context of the reports; `stop` ends it
	pause   time.Duration      // shortest time between two reports of a device
	active  atomic.Int64
	reports atomic.Int64

	mu      sync.Mutex
	last    time.Time      // time of the last success of any device
	longest time.Duration  // longest time in which no device had a success
	waited  time.Duration  // longest time that one report took with its repetitions
	failed  map[string]int // reports without success, by reason
}

type faultDevice struct {
	*fleet.Device
	id           string
	certificates [][32]byte // hashes of all certificates that the device received
	acknowledged int        // last report that the hub acknowledged
}

func newFaultFleet(t *testing.T, s *site, n int) *faultFleet {
	t.Helper()
	// All devices together send about 150 reports a second, however many they are.
	f := &faultFleet{t: t, token: s.token, last: time.Now(), failed: map[string]int{}, pause: max(200*time.Millisecond, time.Duration(n)*5*time.Millisecond)}
	for range n {
		d, err := fleet.New(s.maker, "H-2")
		s.check(err)
		f.devices = append(f.devices, &faultDevice{Device: d})
	}
	f.ctx, f.stop = context.WithCancel(t.Context())
	t.Cleanup(f.stop)
	return f
}

// success records an answer of the hub, for a request that a device began to send at `begun`.
func (f *faultFleet) success(begun time.Time) {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.longest, f.waited, f.last = max(f.longest, now.Sub(f.last)), max(f.waited, now.Sub(begun)), now
}

// gap returns the longest time in which no device got an answer, and the longest time that one
// device waited for its answer. Then it resets both times.
func (f *faultFleet) gap() (longest, waited time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	longest, waited = max(f.longest, time.Since(f.last)), f.waited
	f.longest, f.waited = 0, 0
	return longest, waited
}

// note counts a report that failed.
func (f *faultFleet) note(answer *fleet.Answer, err error) {
	reason := "no answer"
	var slow net.Error
	switch {
	case err == nil && answer.Status == http.StatusOK:
		return
	case err == nil:
		reason = fmt.Sprint(answer.Status, " ", answer.Code())
	case errors.As(err, &slow) && slow.Timeout():
		reason = "no answer in " + answerPatience.String()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed[reason]++
}

// release starts devices at times that are spread over the time `over`. A device onboards, and then
// reports until the test stops it.
func (f *faultFleet) release(devices []*faultDevice, over time.Duration) {
	for _, d := range devices {
		delay := rand.N(over)
		f.running.Go(func() {
			time.Sleep(delay)
			if err := f.live(d); err != nil {
				f.t.Error(err)
			}
		})
	}
}

func (f *faultFleet) live(d *faultDevice) error {
	begun := time.Now()
	ctx, cancel := context.WithTimeout(f.t.Context(), 10*time.Minute)
	defer cancel()
	id, certs, hashes, err := onboardUntilActive(ctx, d.Device, f.token)
	if err != nil {
		return fmt.Errorf("onboarding a device: %w", err)
	}
	d.id, d.certificates = id, hashes
	f.success(begun)
	f.active.Add(1)
	hub, err := fleet.NewHub(f.token)
	if err != nil {
		return err
	}
	defer hub.Close()
	var conn *fleet.Conn
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	begun = time.Now()
	for f.ctx.Err() == nil {
		var answer *fleet.Answer
		conn, answer, err = f.report(conn, hub, d, certs)
		done := err == nil && answer.Status == http.StatusOK
		if err == nil && answer.Status/100 == 4 && answer.Status != http.StatusTooManyRequests {
			return fmt.Errorf("device %s: the hub refused a report: %d %s", d.id, answer.Status, answer.Body)
		}
		f.note(answer, err)
		pause := max(100*time.Millisecond, f.pause/5) // before a retry
		if done {
			d.acknowledged++
			f.reports.Add(1)
			f.success(begun)
			pause = f.pause
		}
		select {
		case <-f.ctx.Done():
		case <-time.After(pause + rand.N(pause)):
		}
		if done {
			begun = time.Now()
		}
	}
	return nil
}

// answerPatience is how long a device waits for one answer.
const answerPatience = 15 * time.Second

// report sends the device's next report on the connection `conn`. If `conn` is nil, report opens a
// connection first. It returns the connection that can be used again, or nil after an error.
func (f *faultFleet) report(conn *fleet.Conn, hub *fleet.Hub, d *faultDevice, certs *fleet.Certificates) (*fleet.Conn, *fleet.Answer, error) {
	ctx, cancel := context.WithTimeout(f.t.Context(), answerPatience)
	defer cancel()
	if conn == nil {
		var err error
		if conn, err = hub.Dial(ctx, certs.TLS(d.Device)); err != nil {
			return nil, nil, err
		}
	}
	answer, err := conn.Do(ctx, "PATCH", "/device/meta", fmt.Appendf(nil, `{"beat":"%d"}`, d.acknowledged+1))
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, answer, nil
}

// number parses the sequence number of a report, which is a text in the device's metadata. It
// returns 0 if `v` is not a number.
func number(v any) int {
	text, _ := v.(string)
	n, _ := strconv.Atoi(text)
	return n
}

// clientOf returns a client that trusts the hub's CA.
func clientOf(hub *pki.Hub) *http.Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(hub.RootPEM())
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}}}
}
