// Package e2e_test tests all of Gangway with real parts: a hub over TLS, the agent, and
// software TPMs of swtpm. Programs of other projects check the results independently.
package e2e_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"gangway/device/agent"
	"gangway/device/identity"
	"gangway/internal/hubtest"
	"gangway/internal/swtpm"
	"gangway/internal/swtpm/swtpmtest"
	"gangway/wire"
)

// makers is the folder with the CA of the TPMs' maker. All TPMs of a test run have this maker.
var makers string

// agentBinary is the path of the real gangway-agent, empty in -short mode.
var agentBinary string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "gw")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		makers = filepath.Join(dir, "maker")
		if err := swtpmtest.NewMaker(makers); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		agentBinary = filepath.Join(dir, "gangway-agent")
		if testing.Short() {
			return m.Run() // needFullRun skips the tests that need agentBinary
		}
		build := exec.Command("go", "build", "-o", agentBinary, "gangway/cmd/gangway-agent")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v: %s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// needFullRun skips the test in -short mode. Call it in tests that take more than about two
// seconds.
func needFullRun(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("the test runs real parts: run go test without -short")
	}
}

// newTPM starts a software TPM. In -short mode it skips the test, because most tests with a TPM
// take some seconds.
func newTPM(t testing.TB, ek swtpm.EK) *swtpm.TPM {
	t.Helper()
	needFullRun(t)
	return startTPM(t, ek)
}

// startTPM starts a software TPM, even in -short mode.
func startTPM(t testing.TB, ek swtpm.EK) *swtpm.TPM {
	t.Helper()
	return swtpmtest.Start(t, swtpm.Options{EK: ek, Maker: makers})
}

// withIdentity makes the keys that the agent makes with this TPM, and passes them to `use`. Then it
// closes the keys and the connection to the TPM.
func withIdentity(t testing.TB, tpm *swtpm.TPM, o identity.Options, use func(*identity.Identity)) {
	t.Helper()
	link, err := identity.Open(tpm.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	id, err := identity.Load(t.Context(), link, o)
	if err != nil {
		t.Fatal(err)
	}
	defer id.Close()
	use(id)
}

// ekKey returns the public key of the EK that the TPM makes from a template.
func ekKey(t testing.TB, tpm *swtpm.TPM, template string) (key crypto.PublicKey) {
	t.Helper()
	withIdentity(t, tpm, identity.Options{EK: template, AllowUnvouched: true}, func(id *identity.Identity) {
		var err error
		if key, err = id.EK.Key(); err != nil {
			t.Fatal(err)
		}
	})
	return key
}

// buildGangway builds the command gangway at this path.
func buildGangway(t testing.TB, path string) {
	t.Helper()
	if out, err := exec.Command("go", "build", "-o", path, "gangway/cmd/gangway").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
}

// newHub starts a hub that trusts the maker of this TPM.
func newHub(t testing.TB, tpm *swtpm.TPM) *hubtest.Hub {
	t.Helper()
	return hubtest.New(t, tpm.Roots(), []*x509.Certificate{tpm.Issuer()})
}

// onboard runs the agent in this process and onboards the TPM.
func onboard(t testing.TB, tpm *swtpm.TPM, tok *wire.TokenFile, state string) (*agent.State, error) {
	t.Helper()
	return onboardWith(t, agent.Config{Token: tok, TPM: tpm.Address(), StateDir: state})
}

// onboardWith does the same as the function `onboard` with any configuration of the agent. It logs
// the agent's progress.
func onboardWith(t testing.TB, cfg agent.Config) (*agent.State, error) {
	t.Helper()
	cfg.Model, cfg.Serial = "test machine", "0001"
	cfg.Progress = func(s agent.Progress) { t.Logf("%-9s %s (%s)", s.Name, s.Detail, s.Took) }
	a, err := agent.New(cfg)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return a.Onboard(ctx)
}

// onboardedDevice is a device with its TPM, state folder and id, and the hub for this device only.
type onboardedDevice struct {
	hub   *hubtest.Hub
	tpm   *swtpm.TPM
	tok   *wire.TokenFile
	state string
	id    string
}

// newDevice returns a device that has not onboarded yet.
func newDevice(t testing.TB, ek swtpm.EK) *onboardedDevice {
	t.Helper()
	tpm := newTPM(t, ek)
	h := newHub(t, tpm)
	return &onboardedDevice{hub: h, tpm: tpm, tok: h.Token(t, h.Owner, nil), state: filepath.Join(t.TempDir(), "state")}
}

// newOnboarded onboards a device. `key` is the algorithm of the device's identity key; "" means the
// agent's default.
func newOnboarded(t testing.TB, ek swtpm.EK, key string) *onboardedDevice {
	t.Helper()
	o := newDevice(t, ek)
	s, err := onboardWith(t, agent.Config{Token: o.tok, TPM: o.tpm.Address(), StateDir: o.state, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	o.id = s.DeviceID
	return o
}

func (o *onboardedDevice) deleteDevice(t *testing.T, id string) {
	t.Helper()
	if err := o.hub.Store.DeleteDevice(t.Context(), o.hub.Owner.ID, id, o.hub.Now()); err != nil {
		t.Fatal(err)
	}
}

// wantDevicesAndUses checks how many devices the owner has, and how often the join token was used.
func (o *onboardedDevice) wantDevicesAndUses(t *testing.T, devices, uses int) {
	t.Helper()
	n, used := len(o.hub.Devices(t, o.hub.Owner)), o.hub.Uses(t, o.tok)
	if n != devices || used != uses {
		t.Errorf("%d devices, %d uses of the join token; want %d and %d", n, used, devices, uses)
	}
}
