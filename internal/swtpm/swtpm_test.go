package swtpm

import (
	"bytes"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gangway/tcg"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

func need(t *testing.T) {
	t.Helper()
	if m := Missing(); m != "" {
		t.Skip(m)
	}
}

func readNV(t *testing.T, tpm *TPM, index uint32) []byte {
	t.Helper()
	link, err := linuxudstpm.Open(tpm.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	pub, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(index)}.Execute(link)
	if err != nil {
		t.Fatalf("reading NV index 0x%08X: %v", index, err)
	}
	c, err := pub.NVPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	h := tpm2.NamedHandle{Handle: tpm2.TPMHandle(index), Name: pub.NVName}
	var out []byte
	for len(out) < int(c.DataSize) {
		rsp, err := tpm2.NVRead{AuthHandle: h, NVIndex: h, Size: min(512, c.DataSize-uint16(len(out))), Offset: uint16(len(out))}.Execute(link)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, rsp.Data.Buffer...)
	}
	return out
}

// Two TPMs that are made at the same time with one maker's folder have EK certificates of the same
// maker.
func TestCertificateIsOfTheSharedMaker(t *testing.T) {
	need(t)
	t.Parallel()
	dir := t.TempDir()
	maker := filepath.Join(dir, "maker")
	kinds := []struct {
		name  string
		ek    EK
		index uint32
	}{{"rsa", RSA2048, 0x01C00002}, {"p384", P384, 0x01C00016}}
	serials := make([]string, len(kinds))
	var wg sync.WaitGroup // both TPMs start at the same time, and both try to make the maker's CA
	for i, k := range kinds {
		wg.Go(func() {
			tpm, err := New(t.Context(), filepath.Join(dir, k.name), Options{EK: k.ek, Maker: maker})
			if err != nil {
				t.Error(err)
				return
			}
			defer tpm.Stop()
			ek, err := tcg.ParseEKCertificate(readNV(t, tpm, k.index))
			if err != nil {
				t.Error(err)
				return
			}
			serials[i] = ek.Certificate.SerialNumber.String()
			opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
			for _, r := range tpm.Roots() {
				opts.Roots.AddCert(r)
			}
			opts.Intermediates.AddCert(tpm.Issuer())
			if _, err := ek.Certificate.Verify(opts); err != nil {
				t.Error(err)
			}
			if n := bytes.Count(tpm.CAPEM(), []byte("BEGIN CERTIFICATE")); n != 2 {
				t.Errorf("CAPEM holds %d certificates; want 2", n)
			}
		})
	}
	wg.Wait()
	if serials[0] == serials[1] {
		t.Errorf("both certificates have serial %s", serials[0])
	}
}

func TestNVSurvivesRestartAndStop(t *testing.T) {
	need(t)
	t.Parallel()
	// This folder's path is too long for a socket, and contains a comma.
	dir := filepath.Join(t.TempDir(), "a,b "+strings.Repeat("long", 25))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	tpm, err := New(t.Context(), dir, Options{EK: None})
	if err != nil {
		t.Fatal(err)
	}
	defer tpm.Stop()
	want := bytes.Repeat([]byte("gangway "), 150)
	for range 2 { // the second WriteNV replaces the content of the first
		if err := tpm.WriteNV(0x01C00100, want); err != nil {
			t.Fatal(err)
		}
	}
	if err := tpm.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := readNV(t, tpm, 0x01C00100); !bytes.Equal(got, want) {
		t.Error("NV differs after Restart")
	}
	tpm.Stop()
	tpm.Stop()
	again, err := New(t.Context(), dir, Options{EK: None})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Stop()
	if got := readNV(t, again, 0x01C00100); !bytes.Equal(got, want) {
		t.Error("NV differs after Stop and New")
	}
}

func TestStopEndsTheProcess(t *testing.T) {
	need(t)
	t.Parallel()
	tpm, err := New(t.Context(), t.TempDir(), Options{EK: None})
	if err != nil {
		t.Fatal(err)
	}
	pid := tpm.proc.Pid()
	tpm.Stop()
	deadline := time.Now().Add(5 * time.Second)
	for syscall.Kill(pid, 0) == nil {
		if time.Now().After(deadline) {
			t.Fatalf("process %d still runs", pid)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := os.Stat(strings.TrimPrefix(tpm.Address(), "unix:")); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestSecondTPMInOneFolderIsRefused(t *testing.T) {
	need(t)
	t.Parallel()
	dir := t.TempDir()
	tpm, err := New(t.Context(), dir, Options{EK: None})
	if err != nil {
		t.Fatal(err)
	}
	defer tpm.Stop()
	if second, err := New(t.Context(), dir, Options{EK: None}); err == nil {
		second.Stop()
		t.Fatal("a second TPM runs on the same state")
	}
}

func TestMissingNamesThePackage(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	m := Missing()
	for _, want := range []string{"swtpm_setup", "apt-get install", "gnutls-bin"} {
		if !strings.Contains(m, want) {
			t.Errorf("%q does not name %s", m, want)
		}
	}
	if _, err := New(t.Context(), t.TempDir(), Options{}); err == nil || !strings.Contains(err.Error(), "apt-get install") {
		t.Errorf("New without swtpm returns %v; want a hint to install it", err)
	}
}
