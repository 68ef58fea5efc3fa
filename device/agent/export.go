package agent

import (
	"context"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
)

// Names of the files that Export writes. None of these files contains a secret.
const (
	ExportChain   = "identity.pem" // IDevID certificate and its issuer
	ExportCA      = "hub-ca.pem"   // the hub's root certificate
	ExportKey     = "key.uri"      // the key's URI for OpenSSL: handle:0x81020000
	ExportOpenSSL = "openssl.cnf"  // an OpenSSL configuration that loads OpenSSL's TPM provider
)

// openSSLConfig is a configuration of OpenSSL 3 that uses the TPM only for signatures. The default
// provider comes first, because OpenSSL computes digests with the first provider that supports
// them. A TPM computes digests slowly, and only a few at the same time.
const openSSLConfig = `# OpenSSL 3 with its TPM provider (Debian: tpm2-openssl), for the key in key.uri.
# Set OPENSSL_CONF to the path of this file, and TPM2OPENSSL_TCTI to the TPM. Use a TPM
# with a resource manager, such as device:/dev/tpmrm0.
openssl_conf = gangway

[gangway]
providers = providers
alg_section = algorithms

[providers]
default = use
tpm2 = use

[use]
activate = 1

[algorithms]
default_properties = ?tpm2.signature=yes
`

// ExportConfig configures Export.
type ExportConfig struct {
	TPM, StateDir string // as in Config
	Dir           string // folder for the files, created if missing; if Dir is empty and Remove is set, Export removes no files
	Handle        uint32 // persistent handle, see identity.Signer.Keep; 0: a free one
	Remove        bool   // remove the persistent handle and the files of earlier exports

	EndorsementAuth []byte // as in Config
}

// Exported is the result of Export.
type Exported struct {
	Key     string `json:"key,omitempty"` // URI for OpenSSL
	Dir     string `json:"dir,omitempty"`
	Removed int    `json:"removed,omitempty"` // number of removed persistent handles
}

// Export makes the device's identity usable by programs that use OpenSSL's TPM provider. Export
// stores the IDevID key at a persistent handle of the TPM and writes files that refer to this
// handle. Export does not write a TSS2 PRIVATE KEY file, because such a file contains the key's
// encrypted private part. The IDevID key is a primary key, and a TPM never outputs the private part
// of a primary key.
//
// Export does not lock the state folder, so the agent may run at the same time.
func Export(ctx context.Context, cfg ExportConfig) (*Exported, error) {
	dir := &folder{path: cfg.StateDir}
	state, err := dir.read()
	if err != nil {
		return nil, err
	}
	if state.Phase != PhaseActive {
		return nil, state.notOnboarded()
	}
	t, err := openTPM(cfg.TPM)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	a := &Agent{cfg: Config{TPM: cfg.TPM, StateDir: cfg.StateDir, EndorsementAuth: cfg.EndorsementAuth, Log: slog.New(slog.DiscardHandler)}, dir: dir, state: state}
	signer, err := a.signer(ctx, t)
	if err != nil {
		return nil, err
	}
	defer signer.Close()
	if cfg.Remove {
		return remove(ctx, cfg, signer)
	}
	certs, err := dir.certificates(state.HubCA)
	if err != nil {
		return nil, err
	}
	handle, err := signer.Keep(ctx, cfg.Handle)
	if err != nil {
		return nil, err
	}
	var chain []byte
	for _, der := range certs.chain() {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	out := &Exported{Key: fmt.Sprintf("handle:0x%08X", handle), Dir: cfg.Dir}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	to := &folder{path: cfg.Dir}
	for _, f := range []struct {
		name    string
		content []byte
	}{
		{ExportChain, chain}, {ExportCA, []byte(state.HubCA)}, {ExportOpenSSL, []byte(openSSLConfig)}, {ExportKey, []byte(out.Key + "\n")},
	} {
		if err := to.write(f.name, f.content); err != nil {
			return nil, err
		}
		// Every user may read the files: they contain no secret. A program also needs access to the
		// TPM to use the key.
		if err := os.Chmod(filepath.Join(cfg.Dir, f.name), 0o644); err != nil {
			return nil, fmt.Errorf("agent: %w", err)
		}
	}
	return out, nil
}

func remove(ctx context.Context, cfg ExportConfig, signer signer) (*Exported, error) {
	n, err := signer.Drop(ctx, cfg.Handle)
	if err != nil {
		return nil, err
	}
	if cfg.Dir != "" {
		if err := (&folder{path: cfg.Dir}).remove(ExportChain, ExportCA, ExportKey, ExportOpenSSL); err != nil {
			return nil, err
		}
	}
	return &Exported{Removed: n, Dir: cfg.Dir}, nil
}
