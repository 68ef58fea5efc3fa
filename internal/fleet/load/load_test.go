package load

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gangway/internal/fleet"
)

// Devices leave the queue in the order in which they were added, also after the queue has grown and
// its ring buffer has wrapped.
func TestQueueGivesEachDeviceItsTurn(t *testing.T) {
	var q queue
	if q.pop() != nil {
		t.Fatal("an empty queue has a device")
	}
	next, first := 0, 0
	for round := range 200 {
		for range round%7 + 1 {
			q.push(&device{number: next})
			next++
		}
		for range round%5 + 1 {
			if d := q.pop(); d != nil {
				if d.number != first {
					t.Fatalf("device %d, want %d", d.number, first)
				}
				first++
			}
		}
	}
	for d := q.pop(); d != nil; d = q.pop() {
		if d.number != first {
			t.Fatalf("device %d, want %d", d.number, first)
		}
		first++
	}
	if first != next {
		t.Errorf("%d devices came out, %d went in", first, next)
	}
}

// The queue hands out a device for a keep-alive report only if the device has been idle for the
// given time.
func TestQueueGivesOnlyDevicesThatAreIdleForLong(t *testing.T) {
	var q queue
	now := time.Now()
	q.push(&device{number: 1, used: now.Add(-2 * time.Minute)})
	q.push(&device{number: 2, used: now.Add(-time.Second)})
	if d := q.popIdle(now.Add(-time.Minute)); d == nil || d.number != 1 {
		t.Errorf("%+v, want the first device", d)
	}
	if d := q.popIdle(now.Add(-time.Minute)); d != nil {
		t.Errorf("device %d was idle for a second only", d.number)
	}
	if d := q.pop(); d == nil || d.number != 2 {
		t.Errorf("%+v, want the second device", d)
	}
}

// The first 16 million devices have different source addresses. All are in 127.0.0.0/8, and none is
// 127.0.0.1, because hubs listen on that address.
func TestSourceAddressesDiffer(t *testing.T) {
	s := newSpread(netip.MustParseAddrPort("127.0.0.1:12443"), 0)
	at := func(i int) netip.Addr {
		a, _ := netip.AddrFromSlice(s.address(i).(*net.TCPAddr).IP.To4())
		return a
	}
	for i, want := range map[int]string{0: "127.1.0.0", 1: "127.1.0.1", 65535: "127.1.255.255", 65536: "127.2.0.0", maxAddresses - 1: "127.254.255.255", maxAddresses: "127.1.0.0"} {
		if got := at(i); got.String() != want {
			t.Errorf("device %d: %s, want %s", i, got, want)
		}
	}
	for _, hub := range []string{"192.0.2.1:12443", "[::1]:12443"} {
		if newSpread(netip.MustParseAddrPort(hub), 0) != nil {
			t.Errorf("%s: the source addresses are of 127.0.0.0/8", hub)
		}
	}
}

// If the hub's address or host name is not on loopback, the run needs confirmation that the hub is
// a test hub.
func TestOnlyLoopbackWithoutConfirmation(t *testing.T) {
	for hub, want := range map[string]string{"https://127.0.0.1:12443": "127.0.0.1:12443", "https://127.9.9.9": "127.9.9.9:443", "https://[::1]:12443": "[::1]:12443", "https://192.0.2.1:12443": "", "https://[2001:db8::1]:12443": ""} {
		_, _, at, err := resolve(t.Context(), hub, false)
		if want == "" {
			if !errors.Is(err, ErrNotLoopback) {
				t.Errorf("%s: %v", hub, err)
			}
			if _, _, _, err := resolve(t.Context(), hub, true); err != nil {
				t.Errorf("%s, confirmed: %v", hub, err)
			}
		} else if err != nil || at.String() != want {
			t.Errorf("%s: %s, %v", hub, at, err)
		}
	}
}

func TestStateFileHasTheDevices(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	maker, err := fleet.NewMaker("m", fleet.MakerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	header := stateHeader{HubName: "hub", Owner: "ada"}
	if list, err := loadState(path, header); err != nil || list != nil {
		t.Fatalf("without a file: %v, %v", list, err)
	}
	var devices []*device
	for i := range 3 {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template, err := fleet.EKTemplate(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		cert, err := maker.Sign(template, key.Public())
		if err != nil {
			t.Fatal(err)
		}
		devices = append(devices, &device{number: i, id: strings.Repeat("abc"[i:i+1], 24), key: key, cert: cert.Raw, ca: maker.Intermediate.Raw, trail: i == 1, rev: i})
	}
	devices = slices.Insert(devices, 1, &device{number: 7}) // not onboarded
	if err := saveState(path, header, devices); err != nil {
		t.Fatal(err)
	}
	if s, err := os.Stat(path); err != nil || s.Mode().Perm() != 0o600 {
		t.Errorf("the file with private keys: %v %v", s.Mode(), err)
	}
	list, err := loadState(path, header)
	if err != nil || len(list) != 3 {
		t.Fatalf("%d devices, %v", len(list), err)
	}
	for i, want := range slices.Delete(devices, 1, 2) {
		d := list[i]
		if d.number != i || d.id != want.id || !d.key.Equal(want.key) || string(d.cert) != string(want.cert) || string(d.ca) != string(want.ca) || d.trail != want.trail || d.rev != want.rev {
			t.Errorf("device %d: %+v, want %+v", i, d, want)
		}
		if _, err := x509.ParseCertificate(d.cert); err != nil {
			t.Error(err)
		}
	}
	for name, h := range map[string]stateHeader{"another hub": {HubName: "other", Owner: "ada"}, "another owner": {HubName: "hub", Owner: "joan"}} {
		if _, err := loadState(path, h); err == nil || !strings.Contains(err.Error(), "another hub or owner") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, text := range map[string]string{"empty": "", "another format": `{"format":"x"}`, "broken": `{"format":"` + stateFormat + `","hub-name":"hub","owner":"ada"}` + "\n{\"id\":"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadState(path, header); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// The schedule does not depend on how long operations take, and all rates are kept exactly.
func TestArrivalsFollowTheRate(t *testing.T) {
	for _, poisson := range []bool{false, true} {
		r := &runner{cfg: Config{For: 500 * time.Millisecond, Poisson: poisson}, all: newTimes(), late: newTimes(), began: time.Now()}
		k := &running{kind: &kind{name: "test", run: func(context.Context, *runner, *device) error { time.Sleep(200 * time.Millisecond); return io.EOF }}, rate: 1000, slots: make(chan struct{}, 1000), latency: newTimes(), failed: newTimes()}
		var working sync.WaitGroup
		r.schedule(t.Context(), k, 1, &working)
		working.Wait()
		n := k.scheduled.Load()
		if least, most := int64(500), int64(500); poisson && (n < 400 || n > 600) || !poisson && (n < least || n > most) {
			t.Errorf("poisson %v: %d starts in 0.5 s at 1000 a second", poisson, n)
		}
		if k.errors.copy()["connection-closed"]+k.missed.sum() != n || k.failed.summary().Count+k.missed.sum() != n {
			t.Errorf("poisson %v: %d starts: %v %v", poisson, n, k.errors.copy(), k.missed.copy())
		}
	}
}

func TestReadsTheUsageOfAProcess(t *testing.T) {
	before, err := readProcess(os.Getpid())
	if err != nil || before.RSS < 1<<20 || before.OpenFiles < 3 {
		t.Fatalf("%+v, %v", before, err)
	}
	own := ownUsage()
	for end := time.Now().Add(5 * time.Second); ownUsage().CPU < own.CPU+0.2 && time.Now().Before(end); {
	}
	after, err := readProcess(os.Getpid())
	if err != nil || after.CPU-before.CPU < 0.1 || after.CPU-before.CPU > 5 {
		t.Errorf("after 0.2 CPU seconds: %+v, before %+v, %v", after, before, err)
	}
	if _, err := readProcess(1 << 30); err == nil {
		t.Error("a process that does not exist has a usage")
	}
}

// If the process may not open enough files, the error says how to raise the limit.
func TestTooFewOpenFilesNamesTheRemedy(t *testing.T) {
	if err := allowDescriptors(10); err != nil {
		t.Error(err)
	}
	// No Linux system allows so many open files.
	if err := allowDescriptors(1 << 40); err == nil || !strings.Contains(err.Error(), "ulimit -n") {
		t.Errorf("%v, want a remedy", err)
	}
}
