package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gangway/internal/fleet"

	"github.com/rogpeppe/go-internal/testscript"
)

// The function `served` is the script command "served PORT". It waits until a server accepts TLS
// connections on a loopback port.
func served(ts *testscript.TestScript, _ bool, args []string) {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		// This connection accepts any certificate. The commands that the script runs next verify
		// the hub's certificate.
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Second}, "tcp", "127.0.0.1:"+args[0], &tls.Config{InsecureSkipVerify: true})
		if err == nil {
			c.Close()
			return
		}
	}
	ts.Fatalf("no hub serves on port %s after 20 s", args[0])
}

// wordOf is the script command "wordof NAME FIELD". It sets the variable NAME to the value of FIELD
// in the last command's JSON output.
func wordOf(ts *testscript.TestScript, _ bool, args []string) {
	var v map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	word, ok := v[args[1]]
	if !ok {
		ts.Fatalf("no field %q in %.200s", args[1], fmt.Sprint(v))
	}
	ts.Setenv(args[0], strings.TrimSpace(fmt.Sprint(word)))
}

// maker is the script command "maker DIR". It writes the CA certificates of a TPM maker to the
// folder DIR. It also writes DIR-ek.crt, the EK certificate of a TPM, and DIR-weak.crt, an EK
// certificate for a P-224 key, which no EK template allows. It sets $ROOT and $LINK to the SHA-256
// of the root and of the intermediate.
func maker(ts *testscript.TestScript, _ bool, args []string) {
	m, err := fleet.NewMaker(filepath.Base(args[0]), fleet.MakerOptions{})
	ts.Check(err)
	d, err := fleet.New(m, "L-1")
	ts.Check(err)
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	for name, der := range map[string][]byte{"root.pem": m.Root.Raw, "link.pem": m.Intermediate.Raw} {
		ts.Check(os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	}
	// Zero bytes follow the certificate, as in an NV index that is larger than its certificate.
	ts.Check(os.WriteFile(dir+"-ek.crt", append(d.EKCert, make([]byte, 100)...), 0o600))
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	ts.Check(err)
	template, err := fleet.EKTemplate(&weak.PublicKey)
	ts.Check(err)
	cert, err := m.Sign(template, &weak.PublicKey)
	ts.Check(err)
	ts.Check(os.WriteFile(dir+"-weak.crt", cert.Raw, 0o600))
	ts.Setenv("ROOT", fmt.Sprintf("%x", sha256.Sum256(m.Root.Raw)))
	ts.Setenv("LINK", fmt.Sprintf("%x", sha256.Sum256(m.Intermediate.Raw)))
}
