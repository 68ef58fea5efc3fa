package pki

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// files lists all files of the authorities' folder, with their modes.
var files = map[string]fs.FileMode{
	"root.key": 0o600, "root.crt": 0o644,
	"aca.key": 0o600, "aca.crt": 0o644,
	"device-ca.key": 0o600, "device-ca.crt": 0o644,
	"seal.key": 0o600,
}

func TestOpenMakesThenLoadsTheSame(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	defer syscall.Umask(syscall.Umask(0o077))
	first, err := Open(dir, Options{Name: "First"})
	if err != nil {
		t.Fatal(err)
	}
	again, err := Open(dir, Options{Name: "Second", Curve: elliptic.P384()})
	if err != nil {
		t.Fatal(err)
	}
	if !first.Created() || again.Created() {
		t.Errorf("made: %v, then %v", first.Created(), again.Created())
	}
	if first.HubName() != again.HubName() || !bytes.Equal(first.SealKey(), again.SealKey()) || len(first.SealKey()) != 32 ||
		!first.Root().Equal(again.Root()) || !first.ACA().Equal(again.ACA()) || !first.DeviceCA().Equal(again.DeviceCA()) {
		t.Error("the second start has other authorities")
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v, %v", info.Mode(), err)
	}
	for name, mode := range files {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, want %v", name, info, mode)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != len(files) {
		t.Errorf("%d files, want %d (%v)", len(entries), len(files), err)
	}
	if entries, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(entries) != 1 {
		t.Errorf("next to it is %v (%v)", entries, err)
	}
}

func TestAuthorities(t *testing.T) {
	t.Parallel()
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		h := openNew(t, Options{Name: "Port", Curve: curve})
		spki, err := x509.MarshalPKIXPublicKey(h.rootKey.Public())
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(spki)
		if h.HubName() != hex.EncodeToString(sum[:]) {
			t.Error("the hub's name is not the SHA-256 of the root's key")
		}
		for i, c := range []*x509.Certificate{h.Root(), h.ACA(), h.DeviceCA()} {
			if want := "CN=Port " + authorities[i].title + ",O=Gangway"; c.Subject.String() != want {
				t.Errorf("subject %s, want %s", c.Subject, want)
			}
			if !c.NotAfter.Equal(endOfTime) || !c.NotBefore.Equal(testNow.Add(-5*time.Minute).Truncate(time.Second)) {
				t.Errorf("%s: from %v to %v", c.Subject, c.NotBefore, c.NotAfter)
			}
			if !c.IsCA || c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || len(c.ExtKeyUsage) != 0 {
				t.Errorf("%s: CA %v, usage %b", c.Subject, c.IsCA, c.KeyUsage)
			}
			if i == 0 && c.MaxPathLen != 1 {
				t.Errorf("%s allows %d CAs below each other", c.Subject, c.MaxPathLen)
			}
			if i > 0 && (c.MaxPathLen != 0 || !c.MaxPathLenZero) {
				t.Errorf("%s may have CAs below it", c.Subject)
			}
			if !bytes.Equal(c.SubjectKeyId, keyIdentifier(t, c.PublicKey)) || i > 0 && !bytes.Equal(c.AuthorityKeyId, h.Root().SubjectKeyId) {
				t.Errorf("%s: key identifiers", c.Subject)
			}
			for _, e := range c.Extensions {
				if id := e.Id.String(); (id == "2.5.29.15" || id == "2.5.29.19") && !e.Critical {
					t.Errorf("%s: %s is not critical", c.Subject, id)
				}
			}
			if n := c.SerialNumber; n.Sign() <= 0 || n.BitLen() > 128 {
				t.Errorf("%s: serial %v", c.Subject, n)
			}
			if i > 0 {
				if out, err := opensslVerify(t, h.Root(), nil, c); err != nil {
					t.Errorf("openssl: %v\n%s", err, out)
				}
			}
		}
		for _, p := range []struct {
			text []byte
			cert *x509.Certificate
		}{{h.RootPEM(), h.Root()}, {h.ACAPEM(), h.ACA()}, {h.DeviceCAPEM(), h.DeviceCA()}} {
			if b, rest := pem.Decode(p.text); b == nil || len(rest) > 0 || b.Type != "CERTIFICATE" || !bytes.Equal(b.Bytes, p.cert.Raw) {
				t.Errorf("the PEM of %s is not exactly that certificate", p.cert.Subject)
			}
		}
	}
}

func TestRefusedOptions(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]Options{
		"long name":       {Name: strings.Repeat("é", 41)},
		"broken UTF-8":    {Name: "a\xff"},
		"line in name":    {Name: "a\nb"},
		"NUL in name":     {Name: "a\x00b"},
		"text turned":     {Name: "a\u202eb"},
		"only a space":    {Name: " "},
		"space at an end": {Name: "a "},
		"P-224":           {Curve: elliptic.P224()},
		"P-521":           {Curve: elliptic.P521()},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "pki")
			if _, err := Open(dir, o); err == nil {
				t.Error("accepted")
			}
			if entries, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(entries) != 0 {
				t.Errorf("left %v (%v)", entries, err)
			}
		})
	}
}

// spoil makes authorities, applies `change` to their folder, and opens the folder again. It returns
// the text of Open's error, and checks that Open does not change the folder.
func spoil(t *testing.T, change func(t *testing.T, dir string)) string {
	t.Helper()
	h := openNewAt(t, filepath.Join(t.TempDir(), "pki"))
	change(t, h)
	before := snapshot(t, h)
	_, err := Open(h, Options{})
	if err == nil {
		t.Fatal("Open accepts it")
	}
	if !maps.EqualFunc(before, snapshot(t, h), bytes.Equal) {
		t.Error("Open changed the folder")
	}
	return err.Error()
}

func openNewAt(t *testing.T, dir string) string {
	t.Helper()
	if _, err := Open(dir, Options{}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func snapshot(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	m := map[string][]byte{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if m[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func wantText(t *testing.T, got string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("the error does not say %q: %s", w, got)
		}
	}
}

func TestOpenRefusesAMissingFile(t *testing.T) {
	t.Parallel()
	for name := range files {
		t.Run(name, func(t *testing.T) {
			got := spoil(t, func(t *testing.T, dir string) {
				if err := os.Remove(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			})
			wantText(t, got, name, "restore", "backup")
		})
	}
}

func TestOpenRefusesABrokenFile(t *testing.T) {
	t.Parallel()
	for name := range files {
		for what, content := range map[string]string{"empty": "", "garbage": "garbage\n", "PEM of garbage": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
			t.Run(name+" "+what, func(t *testing.T) {
				got := spoil(t, func(t *testing.T, dir string) {
					if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0); err != nil {
						t.Fatal(err)
					}
				})
				wantText(t, got, name, "restore", "backup")
			})
		}
	}
}

func TestOpenRefusesAnEmptyFolder(t *testing.T) {
	t.Parallel()
	got := spoil(t, func(t *testing.T, dir string) {
		for name := range files {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	})
	wantText(t, got, "is empty", "backup")
}

func TestOpenRefusesReadableKey(t *testing.T) {
	t.Parallel()
	for name, mode := range files {
		if mode != 0o600 {
			continue
		}
		for _, mode := range []fs.FileMode{0o640, 0o604, 0o620, 0o602, 0o610, 0o666} {
			t.Run(name+" "+mode.String(), func(t *testing.T) {
				got := spoil(t, func(t *testing.T, dir string) {
					if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
						t.Fatal(err)
					}
				})
				wantText(t, got, name, "chmod 600")
				if strings.Contains(got, "backup") {
					t.Errorf("the error names a backup, which does not correct modes: %s", got)
				}
			})
		}
	}
}

func TestOpenRefusesKeyOfAnotherCertificate(t *testing.T) {
	t.Parallel()
	names := []string{"root", "aca", "device-ca"}
	for i, name := range names {
		t.Run(name, func(t *testing.T) {
			got := spoil(t, func(t *testing.T, dir string) {
				copyFile(t, filepath.Join(dir, names[(i+1)%3]+".key"), filepath.Join(dir, name+".key"))
			})
			wantText(t, got, name+".key is not the key of "+name+".crt", "backup")
		})
	}
}

func TestOpenRefusesAuthoritiesOfAnotherHub(t *testing.T) {
	t.Parallel()
	other := openNewAt(t, filepath.Join(t.TempDir(), "other"))
	for _, name := range []string{"root", "aca", "device-ca"} {
		t.Run(name, func(t *testing.T) {
			got := spoil(t, func(t *testing.T, dir string) {
				for _, kind := range []string{".key", ".crt"} {
					copyFile(t, filepath.Join(other, name+kind), filepath.Join(dir, name+kind))
				}
			})
			wantText(t, got, "not signed by this hub's root", "backup")
		})
	}
}

// If somebody exchanges the files of the ACA and the device CA, Open must refuse them. Otherwise
// the device CA would sign IAK certificates, and every IAK could be a TLS client.
func TestOpenRefusesExchangedAuthorities(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]string{{"aca", "device-ca"}, {"root", "aca"}, {"root", "device-ca"}} {
		t.Run(pair[0]+" and "+pair[1], func(t *testing.T) {
			got := spoil(t, func(t *testing.T, dir string) {
				for _, kind := range []string{".key", ".crt"} {
					a, b, tmp := filepath.Join(dir, pair[0]+kind), filepath.Join(dir, pair[1]+kind), filepath.Join(t.TempDir(), "x")
					copyFile(t, a, tmp)
					copyFile(t, b, a)
					copyFile(t, tmp, b)
				}
			})
			wantText(t, got, "is not a ", "backup")
		})
	}
}

// The certificate in device-ca.crt has the right key and name, and the root has signed it, but it
// lacks one of the properties of a CA. Open must refuse it, because the certificates that such a CA
// issued would not verify.
func TestOpenRefusesALeafAsAuthority(t *testing.T) {
	t.Parallel()
	const mayIssue = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	for name, change := range map[string]func(*x509.Certificate){
		"no CA":                   func(c *x509.Certificate) { c.IsCA = false },
		"may not sign":            func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature },
		"says nothing of a CA":    func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = false, false },
		"without key identifiers": func(c *x509.Certificate) { withoutKeyIdentifier(c) },
	} {
		t.Run(name, func(t *testing.T) {
			got := spoil(t, func(t *testing.T, dir string) {
				h, err := Open(dir, Options{})
				if err != nil {
					t.Fatal(err)
				}
				old := h.DeviceCA()
				template := &x509.Certificate{
					SerialNumber: old.SerialNumber, Subject: old.Subject, NotBefore: old.NotBefore, NotAfter: old.NotAfter,
					IsCA: true, BasicConstraintsValid: true, KeyUsage: mayIssue, SubjectKeyId: old.SubjectKeyId,
				}
				change(template)
				der, err := x509.CreateCertificate(rand.Reader, template, h.Root(), old.PublicKey, h.rootKey)
				c := parse(t, der, err)
				// The signature must be valid, so that it is not the reason for the refusal.
				if err := c.CheckSignatureFrom(h.Root()); err != nil {
					t.Fatal(err)
				}
				text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
				if err := os.WriteFile(filepath.Join(dir, "device-ca.crt"), text, 0o644); err != nil {
					t.Fatal(err)
				}
			})
			wantText(t, got, "device-ca.crt", "is not a CA certificate", "backup")
		})
	}
}

// withoutKeyIdentifier changes a template so that x509.CreateCertificate omits the key identifier,
// which CreateCertificate always adds if IsCA is set. Therefore withoutKeyIdentifier clears IsCA,
// and adds the extension that marks a CA itself.
func withoutKeyIdentifier(c *x509.Certificate) {
	c.SubjectKeyId, c.IsCA, c.BasicConstraintsValid = nil, false, false
	c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xFF}}}
}

// Open refuses CAs with properties that a hub's CA never has, because another program must have
// made them.
func TestOpenRefusesAuthoritiesOfAnotherKind(t *testing.T) {
	t.Parallel()
	t.Run("curve P-521", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "pki")
		m := &maker{Options: Options{Name: "Test", Curve: elliptic.P521(), Now: testNow}, step: func() {}}
		if _, err := m.create(dir); err != nil {
			t.Fatal(err)
		}
		_, err := Open(dir, Options{})
		if err == nil {
			t.Fatal("accepted")
		}
		wantText(t, err.Error(), "root.key is not an ECDSA key on P-256 or P-384", "backup")
	})
	t.Run("another PEM type", func(t *testing.T) {
		got := spoil(t, func(t *testing.T, dir string) {
			path := filepath.Join(dir, "aca.crt")
			b, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(path, bytes.ReplaceAll(b, []byte(" CERTIFICATE"), []byte(" TRUSTED CERTIFICATE")), 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		})
		wantText(t, got, "aca.crt is not a PEM certificate", "backup")
	})
}

func TestOpenRefusesAFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pki")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{}); err == nil {
		t.Error("accepted")
	}
}

// Several processes and goroutines open a new folder at the same time. Only one of them creates the
// hub, and all use that hub.
func TestOpenAtOnce(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "pki")
	var mu sync.Mutex
	names, made := map[string]bool{}, 0
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			h, err := Open(dir, Options{})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
				return
			}
			names[h.HubName()] = true
			if h.Created() {
				made++
			}
		})
	}
	wg.Wait()
	if len(names) != 1 || made != 1 {
		t.Errorf("%d hubs, made %d times", len(names), made)
	}
	if entries, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(entries) != 1 {
		t.Errorf("next to it is %v (%v)", entries, err)
	}
}

const killEnv = "GANGWAY_PKI_KILL_AT"

// TestMain also serves as the process that TestInitSurvivesKillAtAnyFile starts, in which the
// environment variable killEnv has the form STEP:FOLDER. That process makes authorities in the
// folder FOLDER, and kills itself before its change STEP on the disk, counted from 0.
func TestMain(m *testing.M) {
	at, dir, ok := strings.Cut(os.Getenv(killEnv), ":")
	if !ok {
		os.Exit(m.Run())
	}
	left, err := strconv.Atoi(at)
	if err != nil {
		os.Exit(2)
	}
	mk := &maker{step: func() {
		if left == 0 {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal may take a moment to arrive
		}
		left--
	}}
	if mk.Options, err = (Options{}).withDefaults(); err != nil {
		os.Exit(2)
	}
	if _, err := mk.create(dir); err != nil {
		os.Exit(2)
	}
	os.Exit(0)
}

func TestInitSurvivesKillAtAnyFile(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var nothing, everything int
	for at := 0; ; at++ {
		parent := t.TempDir()
		dir := filepath.Join(parent, "pki")
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), killEnv+"="+strconv.Itoa(at)+":"+dir)
		err := cmd.Run()
		if err == nil {
			break // create completed: there are no more steps
		}
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			t.Fatalf("step %d: %v, not killed", at, err)
		}
		_, statErr := os.Stat(dir)
		there := statErr == nil
		if there {
			everything++
			if got := slices.Sorted(maps.Keys(snapshot(t, dir))); len(got) != len(files) {
				t.Fatalf("step %d: only a part exists: %v", at, got)
			}
		} else {
			nothing++
		}
		h, err := Open(dir, Options{})
		if err != nil {
			t.Fatalf("step %d: the next start: %v", at, err)
		}
		if h.Created() == there {
			t.Errorf("step %d: was there %v, made %v", at, there, h.Created())
		}
		if _, err := h.IssueIDevID(idevidRequest(generate(t, elliptic.P256()).Public())); err != nil {
			t.Errorf("step %d: %v", at, err)
		}
		// The keys that the killed process made must not remain, because no hub uses them.
		if entries, err := os.ReadDir(parent); err != nil || len(entries) != 1 {
			t.Errorf("step %d: next to it is %v (%v)", at, entries, err)
		}
	}
	if nothing < 3*len(files) || everything == 0 {
		t.Errorf("%d kills before the folder existed, %d after: some steps were not tested", nothing, everything)
	}
}
