package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"gangway/hub/api"
	"gangway/hub/boot"
	"gangway/hub/objects"
	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/internal/eventlog"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/tcg"
	"gangway/wire"

	"golang.org/x/sync/errgroup"
)

// Boots says how long the hub takes to answer requests about the boots of a fleet, in milliseconds
// of wall time. The times include TLS and the client, which run in the process of the hub.
type Boots struct {
	Devices  int     `json:"devices"`
	Models   int     `json:"models"`
	Firmware int     `json:"firmware_versions"`
	Measured float64 `json:"seconds_to_measure"` // two boots of each device
	// Decisions is the number of cohorts (devices with the same new firmware) that the owner
	// accepts. It excludes the outlier, that is, the device whose firmware no other device has.
	Decisions int          `json:"decisions"`
	Answers   []BootAnswer `json:"answers"`
}

// BootAnswer has the times of the answers to one kind of request.
type BootAnswer struct {
	What  string  `json:"answer"`
	Times int     `json:"times"`
	P50   float64 `json:"p50_ms"`
	P99   float64 `json:"p99_ms"`
	Max   float64 `json:"max_ms"`
	CPU   float64 `json:"cpu_ms"` // user and system time of hub and client, on average
}

const (
	bootModels   = 5
	bootVersions = 3
	// bootBound is the longest acceptable time of an answer, at the 99th percentile.
	bootBound = 50 * time.Millisecond
	// bootRounds is how many times each list is requested.
	bootRounds = 50
	bootsNick  = "owner"
	// bootWorkers is the number of devices that boot at the same time. If many more devices boot at
	// the same time, a hub on a busy machine refuses writes that wait too long.
	bootWorkers = 16
)

// bootBench is a hub with a fleet that sends boot measurements.
type bootBench struct {
	hub     *testHub
	client  *http.Client
	token   string // access token of the owner
	devices []*fleet.Device
	ids     []string
	result  Boots
}

// measureBoots measures how fast the hub answers requests about the boots of `n` emulated devices.
// The devices are of bootModels models and have bootVersions versions of the firmware. One device
// has firmware that no other device has.
func measureBoots(maker *fleet.Maker, n int) (*Boots, error) {
	if n < 20*bootModels*bootVersions {
		return nil, fmt.Errorf("-boot-devices %d: this measurement needs at least %d devices", n, 20*bootModels*bootVersions)
	}
	h, err := openHub(maker, "")
	if err != nil {
		return nil, err
	}
	defer h.close()
	b := &bootBench{hub: h, result: Boots{Devices: n, Models: bootModels, Firmware: bootVersions}}
	stop, err := b.serve()
	if err != nil {
		return nil, err
	}
	err = b.measure(maker, n)
	return &b.result, errors.Join(err, stop())
}

// serve starts the hub's server on loopback, with an owner who is signed in.
func (b *bootBench) serve() (stop func() error, err error) {
	h := b.hub
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	contents, err := objects.OpenFolder(filepath.Join(h.dir, "objects"))
	if err != nil {
		return nil, err
	}
	address := "https://" + l.Addr().String()
	h.service.PublicURL = address
	rates := api.Rates{}
	for name := range api.DefaultRates() {
		rates[name] = api.Rate{PerSecond: 1e6, Burst: 1e6}
	}
	s, err := api.New(api.Config{Store: h.store, CA: h.ca, Onboard: h.service, Objects: contents, Log: slog.New(slog.DiscardHandler), Now: time.Now,
		PublicURL: address, Names: []string{"127.0.0.1"}, Rates: rates})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	stop = func() error {
		b.client.CloseIdleConnections()
		cancel()
		return errors.Join(<-ended, contents.Close())
	}
	owner := hubtest.NewAccount(bootsNick, time.Now())
	if err := h.store.CreateAccount(ctx, owner); err != nil {
		return nil, err
	}
	t, file, err := onboard.NewToken(h.ca, address, store.JoinToken{Owner: owner.ID, Created: time.Now(), Expires: time.Now().Add(24 * time.Hour)})
	if err != nil {
		return nil, err
	}
	h.token = file
	if err := h.store.CreateJoinToken(ctx, t); err != nil {
		return nil, err
	}
	hub, err := fleet.NewHub(file)
	if err != nil {
		return nil, err
	}
	b.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: hub.Roots, MinVersion: tls.VersionTLS13}}}
	var signedIn struct{ Token string }
	err = b.ask("POST", "/auth/login", map[string]string{"username": bootsNick, "password": hubtest.Password}, &signedIn)
	b.token = signedIn.Token
	return stop, err
}

// ask sends a request of the owner and reads the answer into `out`, which must not be nil.
func (b *bootBench) ask(method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, b.hub.token.Hub+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+b.token)
	resp, err := b.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: status %d: %.300s", method, path, resp.StatusCode, answer)
	}
	return json.Unmarshal(answer, out)
}

func (b *bootBench) measure(maker *fleet.Maker, n int) error {
	fmt.Fprintf(os.Stderr, "making, onboarding and booting %d emulated devices ...\n", n)
	if err := b.boot(maker, n); err != nil {
		return err
	}
	var list api.CohortList
	if err := b.time("the cohorts to look at", bootRounds, func(int) error { return b.ask("GET", "/boots/cohorts", nil, &list) }); err != nil {
		return err
	}
	if len(list.Items) == 0 || !list.Items[0].Outlier || list.Items[0].Devices != 1 || list.Items[0].Part != boot.FirmwareCode {
		return fmt.Errorf("the list has %d cohorts, and the outlier is not the first of them", len(list.Items))
	}
	var all api.CohortList
	if err := b.time("all values of the firmware", bootRounds, func(int) error { return b.ask("GET", "/boots/cohorts?part="+boot.FirmwareCode, nil, &all) }); err != nil {
		return err
	}
	if want := bootModels*bootVersions + 1; len(all.Items) != want {
		return fmt.Errorf("the firmware has %d measured values, want %d", len(all.Items), want)
	}
	if err := b.decide(list.Items[1:]); err != nil {
		return err
	}
	return b.check()
}

// boot onboards the devices, and sends two boot measurements from each of them. The first one has
// the oldest firmware of the device's model, and becomes the reference.
func (b *bootBench) boot(maker *fleet.Maker, n int) error {
	client, err := fleet.NewHub(b.hub.token)
	if err != nil {
		return err
	}
	defer client.Close()
	b.devices, b.ids = make([]*fleet.Device, n), make([]string, n)
	begin := time.Now()
	var group errgroup.Group
	group.SetLimit(bootWorkers)
	for i := range n {
		group.Go(func() error {
			d, err := fleet.New(maker, "H-2")
			if err != nil {
				return err
			}
			d.Model = fmt.Sprint("Model ", i%bootModels)
			b.devices[i] = d
			return b.bootOne(client, i)
		})
	}
	err = group.Wait()
	b.result.Measured = time.Since(begin).Seconds()
	return err
}

func (b *bootBench) bootOne(client *fleet.Hub, i int) error {
	ctx, d := context.Background(), b.devices[i]
	certs, err := d.Onboard(ctx, client, b.hub.token)
	if err != nil {
		return err
	}
	c, err := client.Dial(ctx, certs.TLS(d))
	if err != nil {
		return err
	}
	defer c.Close()
	var self struct{ ID string }
	if err := onDevice(ctx, c, "GET", "/device", nil, &self); err != nil {
		return err
	}
	b.ids[i] = self.ID
	for resets, version := range []int{0, i / bootModels % bootVersions} {
		if err := sendBoot(ctx, c, d, bootOf(i, version, resets == 1 && i == len(b.devices)-1), uint32(resets+1)); err != nil {
			return err
		}
	}
	return nil
}

// bootOf returns the event log of a boot of device i. Its PCR 1 has settings that differ on each
// machine.
func bootOf(i, version int, outlier bool) eventlog.Log {
	l := eventlog.Boot(true, "linux 1", "quiet")
	l[0].Data = eventlog.UTF16(fmt.Sprintf("1.%d", version))
	code := sha256.Sum256(fmt.Append(nil, "firmware of model ", i%bootModels, version, outlier))
	settings := sha256.Sum256(fmt.Append(nil, "settings of machine ", i))
	return append(l, eventlog.Event{PCR: 0, Type: 0x80000008, Data: make([]byte, 16), Digest: code[:]}, // EV_EFI_PLATFORM_FIRMWARE_BLOB
		eventlog.Event{PCR: 1, Type: eventlog.EFIVariableDriver, Data: settings[:]})
}

// sendBoot sends a boot measurement of a device over its connection.
func sendBoot(ctx context.Context, c *fleet.Conn, d *fleet.Device, l eventlog.Log, resets uint32) error {
	var challenge wire.BootChallenge
	if err := onDevice(ctx, c, "GET", "/device/boot", nil, &challenge); err != nil {
		return err
	}
	r := &wire.BootReport{Nonce: challenge.Nonce, Bank: uint16(tcg.AlgSHA256), PCRs: l.PCRs(), EventLog: l.Bytes()}
	var err error
	if r.Attest, r.Signature, err = d.Quote(wire.BootQualifying(r.Nonce, r.EventLog), tcg.AlgSHA256, r.PCRs, resets); err != nil {
		return err
	}
	var v wire.BootVerdict
	return onDevice(ctx, c, "POST", "/device/boot", r, &v)
}

func onDevice(ctx context.Context, c *fleet.Conn, method, path string, in, out any) error {
	var body []byte
	var err error
	if in != nil {
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	a, err := c.Do(ctx, method, path, body)
	if err != nil {
		return err
	}
	if a.Status != http.StatusOK {
		return fmt.Errorf("%s %s: status %d: %s", method, path, a.Status, a.Body)
	}
	return json.Unmarshal(a.Body, out)
}

// The method `decide` requests a preview of the decision about each cohort (the devices with the
// same new firmware), and then accepts each cohort.
func (b *bootBench) decide(cohorts []api.CohortView) error {
	if want := bootModels * (bootVersions - 1); len(cohorts) != want {
		return fmt.Errorf("the list has %d cohorts of changed devices, want %d", len(cohorts), want)
	}
	previews := make([]api.CohortDetail, len(cohorts))
	if err := b.time("the preview of a decision", len(cohorts)*5, func(i int) error {
		c, out := cohorts[i%len(cohorts)], &previews[i%len(cohorts)]
		return b.ask("GET", "/boots/cohorts/"+c.Part+"/"+c.Value+"?"+url.Values{"model": {c.Model}}.Encode(), nil, out)
	}); err != nil {
		return err
	}
	b.result.Decisions = len(cohorts)
	return b.time("a decision", len(cohorts), func(i int) error {
		p := previews[i]
		if p.Devices != cohorts[i].Devices || p.Bad != p.Devices || len(p.Members) != min(p.Devices, 200) {
			return fmt.Errorf("the preview has %d devices, and the list has %d", p.Devices, cohorts[i].Devices)
		}
		var made api.BootDecisionView
		return b.ask("POST", "/boots/decisions", api.NewBootDecision{Part: p.Part, Value: p.Value, Model: p.Model, Devices: p.Devices}, &made)
	})
}

// The method `check` checks that the decisions cover all devices except the outlier, that is, the
// device whose firmware no other device has.
func (b *bootBench) check() error {
	states := make([]string, len(b.ids))
	if err := parallel(len(b.ids), func(i int) error { // the hub judges a stale boot again when it is read
		var v api.BootView
		err := b.ask("GET", "/devices/"+b.ids[i]+"/boot", nil, &v)
		states[i] = v.State
		return err
	}); err != nil {
		return err
	}
	for i, state := range states {
		if want := map[bool]string{false: store.BootMatches, true: store.BootChanged}[i == len(states)-1]; state != want {
			return fmt.Errorf("device %d: the boot is %q, want %q", i, state, want)
		}
	}
	return nil
}

// time calls `f` with 0, 1, … up to `times`-1, and adds a summary of the calls' durations to the
// result. `what` is the name of this measurement.
func (b *bootBench) time(what string, times int, f func(i int) error) error {
	all := make([]time.Duration, times)
	used := cpu()
	for i := range all {
		begin := time.Now()
		if err := f(i); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		all[i] = time.Since(begin)
	}
	used = (cpu() - used) / time.Duration(times)
	slices.Sort(all)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.result.Answers = append(b.result.Answers, BootAnswer{what, times, ms(all[times/2]), ms(all[min(times*99/100, times-1)]), ms(all[times-1]), ms(used)})
	return nil
}

func (b *Boots) print(w io.Writer) (slow []string) {
	fmt.Fprintf(w, "\nboots of %d emulated devices of %d models with %d firmware versions and one outlier, which is the first in the list of cohorts (two boots of each device took %.0f s)\n", b.Devices, b.Models, b.Firmware, b.Measured)
	fmt.Fprintln(w, "answer\ttimes\tp50 ms\tp99 ms\tslowest ms\tCPU ms")
	for _, a := range b.Answers {
		mark := ""
		if a.P99 > float64(bootBound.Milliseconds()) {
			slow, mark = append(slow, a.What), " !"
		}
		fmt.Fprintf(w, "%s\t%d\t%.1f\t%.1f%s\t%.1f\t%.1f\n", a.What, a.Times, a.P50, a.P99, mark, a.Max, a.CPU)
	}
	return slow
}
