package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gangway/internal/swtpm"
)

// An operator can keep the root offline with the commands of the chapter "Keys of the CAs": first
// for a new hub, then for a hub that made its own root. A device onboards, and then connects to the
// hub after each renewal. The hub never has the key of the offline root.
func TestOperationsKeysOfTheCAs(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a TPM, and a hub six times")
	}
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	o := newOperator(t)
	o.words = strings.NewReplacer("/media/vault", o.at("vault"), "--listen :12443", "--listen "+strings.TrimPrefix(o.old, "https://"),
		"https://hub.example:12443", o.old, "/var/lib/gangway", o.at("hub"), "$HUB_NAME", "$(cat hub-name)")
	for _, dir := range []string{"vault", "hub"} {
		if err := os.Mkdir(o.at(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	serve, state := "", o.at("state")
	installed := 0
	for _, line := range chapter(t, "Keys of the CAs") {
		switch {
		case strings.HasPrefix(line, "gangway ca init"):
			o.types(line, "> hub-name")
		case strings.HasPrefix(line, "gangway ca issue"):
			o.types("echo yes | " + line)
		case strings.HasPrefix(line, "gangway serve"):
			serve = line
			o.types(line)
			o.account(tpm)
			o.types("gangway token create -o first.json")
			o.types("gangway-agent onboard --token-file first.json", ofMachine(tpm, state))
			o.waitForReportAt(tpm, state, o.old)
			if o.has("hub/pki/root.key") {
				t.Error("the hub has the root's key")
			}
		case strings.HasPrefix(line, "gangway ca request --data /var/lib/gangway --ca tls-ca -o request-3.pem"):
			// From here on, the hub is one that made its own root.
			o.end()
			for _, name := range []string{"hub", "state"} {
				if err := os.Rename(o.at(name), o.at("former-"+name)); err != nil {
					t.Fatal(err)
				}
			}
			o.types(serve)
			o.account(tpm)
			o.types("gangway token create -o second.json")
			o.types("gangway-agent onboard --token-file second.json", ofMachine(tpm, state))
			o.types(line)
		case strings.HasPrefix(line, "gangway ca install"):
			o.types(line)
			if installed++; installed > 1 {
				o.types(serve)
				o.waitForReportAt(tpm, state, o.old)
			}
		default:
			o.types(line)
		}
	}
	if o.has("hub/pki/root.key") || !o.has("vault/old-root/root.key") {
		t.Error("the root's key is not only in the vault")
	}
	o.types(serve)
	o.waitForReportAt(tpm, state, o.old)

	// A new device CA: the device stays the same device.
	o.types("gangway ca request --data /var/lib/gangway --ca device-ca --ca aca -o request-4.pem")
	o.types("gangway ca issue request-4.pem --root /media/vault/old-root --yes -o answer-4.pem")
	o.types("gangway ca install answer-4.pem --data /var/lib/gangway")
	o.types(serve)
	o.waitForReportAt(tpm, state, o.old)
	if matches, err := filepath.Glob(o.at("hub/pki.replaced-*")); err != nil || len(matches) != 1 {
		t.Errorf("the former folders are %v", matches)
	}
}

// has reports whether a file exists in the operator's folder.
func (o *operator) has(name string) bool {
	_, err := os.Lstat(o.at(name))
	return err == nil
}
