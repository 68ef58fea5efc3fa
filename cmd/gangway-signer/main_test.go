package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/hub/pki/signer"
	"gangway/internal/softhsm"

	"github.com/ThalesGroup/crypto11"
	"github.com/spf13/cobra"
)

// The function `try` runs a command line, and returns the exit code and both outputs.
func try(t *testing.T, arg ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), arg, &out, &errs)
	return code, out.String(), errs.String()
}

// The signer signs with keys in an HSM, but only with the keys that the flag --key names. It signs
// until the test stops it.
func TestSignsWithKeysInAnHSM(t *testing.T) {
	token := softhsm.New(t)
	t.Setenv("SOFTHSM2_CONF", token.Config)
	with := func(arg ...string) []string { return append(arg, token.Flags()...) }
	hashes := map[string]string{}
	for label, curve := range map[string]string{"aca": "P-256", "hub-1-device-ca": "P-384", "root": "P-256"} {
		code, out, errs := try(t, with("create-key", label, "--curve", curve)...)
		if code != 0 {
			t.Fatal(errs)
		}
		hashes[label] = strings.TrimSpace(out)
	}
	if code, _, errs := try(t, with("create-key", "aca")...); code != exitFailed || !strings.Contains(errs, "already") {
		t.Errorf("a key is replaced: %d, %s", code, errs)
	}
	checkStaysInside(t, token)

	dir, err := os.MkdirTemp("", "signer")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "socket")
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, with("serve", "--socket", socket, "--key", "aca", "--key", "device-ca=hub-1-device-ca"), io.Discard, os.Stderr)
	}()
	defer func() {
		stop()
		if code := <-done; code != 0 {
			t.Errorf("the signer ended with %d", code)
		}
	}()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal("the signer does not start")
		}
	}
	c := signer.NewClient(socket)
	for name, key := range map[string]struct {
		label string
		hash  crypto.Hash
	}{"aca": {"aca", crypto.SHA256}, "device-ca": {"hub-1-device-ca", crypto.SHA384}} {
		public, err := c.Public(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(der); hex.EncodeToString(sum[:]) != hashes[key.label] {
			t.Errorf("%s has another key than create-key printed", name)
		}
		digest := make([]byte, key.hash.Size())
		for range 3 {
			if sig, err := c.Sign(t.Context(), name, digest, key.hash); err != nil || !ecdsa.VerifyASN1(public, digest, sig) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if _, err := c.Sign(t.Context(), "root", make([]byte, 32), crypto.SHA256); err == nil {
		t.Error("the signer signs with a key of the token that is not listed")
	}
}

// checkStaysInside checks that the HSM does not export the private key.
func checkStaysInside(t *testing.T, token *softhsm.Token) {
	t.Helper()
	c, err := (&tokenFlags{softhsm.Module, softhsm.Label, token.PINFile}).open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	key, err := findKey(c, "aca")
	if err != nil {
		t.Fatal(err)
	}
	for attribute, want := range map[crypto11.AttributeType]byte{crypto11.CkaSensitive: 1, crypto11.CkaExtractable: 0} {
		if got, err := c.GetAttribute(key, attribute); err != nil || len(got.Value) != 1 || got.Value[0] != want {
			t.Errorf("attribute %v: %v, %v", attribute, got, err)
		}
	}
	if got, err := c.GetAttribute(key, crypto11.CkaValue); err == nil && got != nil && len(got.Value) > 0 {
		t.Error("the private key can be read")
	}
}

// The signer refuses wrong options, and PINs, tokens, modules and keys that it cannot use. Each
// error message names the cause.
func TestRefusals(t *testing.T) {
	token := softhsm.New(t)
	t.Setenv("SOFTHSM2_CONF", token.Config)
	wrong := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(wrong, []byte("1234"), 0o600); err != nil {
		t.Fatal(err)
	}
	readable := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(readable, []byte("648219"), 0o644); err != nil {
		t.Fatal(err)
	}
	serve := func(module, label, pin string, more ...string) []string {
		return append([]string{"serve", "--module", module, "--token", label, "--pin-file", pin, "--socket", filepath.Join(t.TempDir(), "s")}, more...)
	}
	for name, c := range map[string]struct {
		arg  []string
		code int
		want string
	}{
		"wrong PIN":         {serve(softhsm.Module, softhsm.Label, wrong, "--key", "aca"), exitFailed, "CKR_PIN_INCORRECT"},
		"readable PIN":      {serve(softhsm.Module, softhsm.Label, readable, "--key", "aca"), exitFailed, "chmod 600"},
		"no token":          {serve(softhsm.Module, "other", token.PINFile, "--key", "aca"), exitFailed, `token "other"`},
		"no module":         {serve("/nothing.so", softhsm.Label, token.PINFile, "--key", "aca"), exitFailed, "/nothing.so"},
		"relative module":   {serve("libsofthsm2.so", softhsm.Label, token.PINFile, "--key", "aca"), exitUsage, "absolute"},
		"no key":            {serve(softhsm.Module, softhsm.Label, token.PINFile), exitUsage, "--key is needed"},
		"a key twice":       {serve(softhsm.Module, softhsm.Label, token.PINFile, "--key", "aca", "--key", "aca=b"), exitUsage, "twice"},
		"a key that is not": {serve(softhsm.Module, softhsm.Label, token.PINFile, "--key", "aca"), exitFailed, "create-key"},
		"bad name":          {serve(softhsm.Module, softhsm.Label, token.PINFile, "--key", "../aca"), exitUsage, "lower-case"},
		"unknown user":      {serve(softhsm.Module, softhsm.Label, token.PINFile, "--key", "aca", "--allow-user", "nobody-here"), exitFailed, "--allow-user"},
		"bad curve":         {append([]string{"create-key", "x", "--curve", "P-521"}, token.Flags()...), exitUsage, "P-256 or P-384"},
		"nothing":           {[]string{"serve"}, exitUsage, "--key is needed"},
	} {
		if code, _, errs := try(t, c.arg...); code != c.code || !strings.Contains(errs, c.want) {
			t.Errorf("%s: %d, %s", name, code, errs)
		}
	}
}

func TestEveryCommandHasHelp(t *testing.T) {
	root := command(io.Discard, io.Discard)
	for _, c := range append([]*cobra.Command{root}, root.Commands()...) {
		if !c.Hidden && (c.Short == "" || c.Long == "" || !strings.Contains(c.Example, c.CommandPath())) {
			t.Errorf("%s has no help or no example", c.CommandPath())
		}
	}
}
