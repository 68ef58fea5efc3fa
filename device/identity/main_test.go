package identity

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"gangway/internal/swtpm"
	"gangway/internal/swtpm/swtpmtest"

	"github.com/google/go-tpm/tpm2"
)

// base is a folder with the test CA of a TPM maker, and with one software TPM for each kind of EK.
// Each of these TPMs is made only once. Most tests run a copy of one of them; the other tests need
// a TPM with its own keys.
var base string

func TestMain(m *testing.M) {
	var err error
	if base, err = os.MkdirTemp("", "identity"); err != nil {
		panic(err)
	}
	if err = swtpmtest.NewMaker(maker()); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(base)
	os.Exit(code)
}

func maker() string { return filepath.Join(base, "maker") }

var masters [3]struct {
	once sync.Once
	err  error
}

// startTPM runs a new copy of the TPM with this kind of EK. All copies have the same keys.
func startTPM(t testing.TB, kind swtpm.EK) *swtpm.TPM {
	t.Helper()
	if m := swtpm.Missing(); m != "" {
		t.Skip(m)
	}
	master := filepath.Join(base, fmt.Sprint(int(kind)))
	ms := &masters[kind]
	ms.once.Do(func() {
		var tpm *swtpm.TPM
		if tpm, ms.err = swtpm.New(context.Background(), master, swtpm.Options{EK: kind, Maker: maker()}); ms.err == nil {
			tpm.Stop()
		}
	})
	if ms.err != nil {
		t.Fatal(ms.err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(master)); err != nil {
		t.Fatal(err)
	}
	return runTPM(t, dir, kind)
}

// newTPMOf makes a TPM with new keys.
func newTPMOf(t testing.TB, kind swtpm.EK) *swtpm.TPM {
	t.Helper()
	if m := swtpm.Missing(); m != "" {
		t.Skip(m)
	}
	return runTPM(t, t.TempDir(), kind)
}

func runTPM(t testing.TB, dir string, kind swtpm.EK) *swtpm.TPM {
	t.Helper()
	tpm, err := swtpm.New(t.Context(), dir, swtpm.Options{EK: kind, Maker: maker()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tpm.Stop)
	return tpm
}

func open(t testing.TB, s *swtpm.TPM) *TPM {
	t.Helper()
	tpm, err := Open(s.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tpm.Close() })
	return tpm
}

func load(t testing.TB, tpm *TPM, o Options) *Identity {
	t.Helper()
	id, err := Load(t.Context(), tpm, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { id.Close() })
	return id
}

// The function `loaded` returns the handles of the transient objects and sessions in a TPM. It uses
// a separate connection.
func loaded(t testing.TB, s *swtpm.TPM) []uint32 {
	t.Helper()
	tpm := open(t, s)
	end, err := tpm.begin(context.Background(), OpRelease)
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	var out []uint32
	for _, kind := range []uint32{htTransient, htHMACSession} {
		h, err := tpm.listHandles(kind<<24, func(uint32) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, h...)
	}
	return out
}

func assertEmpty(t testing.TB, s *swtpm.TPM) {
	t.Helper()
	if h := loaded(t, s); len(h) > 0 {
		t.Errorf("left in the TPM: %x", h)
	}
}

// spy is a link whose commands and responses a test can read and change.
type spy struct {
	link
	// The field `before` is called with each command. If `before` returns a response or an error,
	// the method `exchange` returns that response or error, and the command does not reach the TPM.
	before func(code uint32, command []byte) ([]byte, error)
	// The field `after` is called with each response. The method `exchange` returns the response or
	// the error that `after` returns. An error looks as if the response was lost.
	after func(code uint32, command, response []byte) ([]byte, error)
}

func (s *spy) exchange(ctx context.Context, cmd []byte, limit time.Duration) ([]byte, error) {
	code := binary.BigEndian.Uint32(cmd[6:])
	if s.before != nil {
		if rsp, err := s.before(code, cmd); rsp != nil || err != nil {
			return rsp, err
		}
	}
	rsp, err := s.link.exchange(ctx, cmd, limit)
	if err == nil && s.after != nil {
		return s.after(code, cmd, rsp)
	}
	return rsp, err
}

// spyOn puts a spy between `tpm` and its link.
func spyOn(tpm *TPM) *spy {
	s := &spy{link: tpm.link}
	tpm.link = s
	return s
}

// refusal returns a TPM response that consists only of the response code `rc`.
func refusal(rc tpm2.TPMRC) []byte {
	return binary.BigEndian.AppendUint32([]byte{0x80, 0x01, 0, 0, 0, 10}, uint32(rc))
}

var errInjected = errors.New("injected")

// The function `credential` makes a credential for the device with the given EK and IAK, as a hub
// does.
func credential(t testing.TB, ekPublic, iakName, secret []byte) (idObject, encryptedSecret []byte) {
	t.Helper()
	pub, err := tpm2.Unmarshal[tpm2.TPMTPublic](ekPublic)
	if err != nil {
		t.Fatal(err)
	}
	ek, err := tpm2.ImportEncapsulationKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	idObject, encryptedSecret, err = tpm2.CreateCredential(rand.Reader, ek, iakName, secret)
	if err != nil {
		t.Fatal(err)
	}
	return idObject, encryptedSecret
}

func newSecret() []byte {
	b := make([]byte, 32)
	rand.Read(b)
	return b
}

func info() RequestInfo {
	return RequestInfo{
		Model: "Model 1", Serial: "0001", EventLog: []byte("log"),
		CAData: func(name []byte) ([]byte, error) { return slices.Concat([]byte("owned:"), name), nil },
	}
}
