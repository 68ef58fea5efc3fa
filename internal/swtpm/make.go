package swtpm

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"gangway/internal/process"
)

// manufacture makes the TPM's state: its seeds, its endorsement keys and their certificates. If
// `opts.EK` requests any certificate, Debian 12's swtpm_setup makes both an RSA 2048 and a P-384
// endorsement key with certificates; the function `finish` removes the certificates that were not
// requested. If `opts.EK` requests none, manufacture makes no endorsement key, because making an
// RSA key takes long.
func manufacture(ctx context.Context, dir, maker string, opts Options) error {
	for _, d := range []string{filepath.Join(dir, "state"), maker} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("swtpm: %w", err)
		}
	}
	conf, err := writeConfig(dir, maker)
	if err != nil {
		return err
	}
	args := []string{"--tpm2", "--config", conf, "--tpmstate", "state", "--pcr-banks", "sha256", "--overwrite"}
	if opts.EK != None {
		args = append(args, "--createek", "--create-ek-cert")
	}
	if opts.EK == P384 {
		args = append(args, "--ecc")
	}
	cmd := exec.CommandContext(ctx, "swtpm_setup", args...)
	cmd.Dir = dir // so that all paths are relative: a comma in an absolute path would end an option of swtpm
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("swtpm: swtpm_setup could not make a TPM in %s: %w\n%s", dir, err, process.Tail(out))
	}
	return nil
}

// writeConfig writes the three configuration files of swtpm_setup, so that swtpm_setup and its CA
// write only to the folders `dir` and `maker`. It returns the path of the first file.
func writeConfig(dir, maker string) (string, error) {
	tool, err := exec.LookPath("swtpm_localca")
	if err != nil {
		return "", errors.New("swtpm: " + Missing())
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	in := func(name string) string { return filepath.Join(maker, name) }
	files := map[string]string{
		"swtpm_setup.conf": "create_certs_tool = " + tool +
			"\ncreate_certs_tool_config = " + at("swtpm-localca.conf") +
			"\ncreate_certs_tool_options = " + at("swtpm-localca.options") +
			"\nactive_pcr_banks = sha256\n",
		"swtpm-localca.conf": "statedir = " + maker +
			"\nsigningkey = " + in("signkey.pem") +
			"\nissuercert = " + in("issuercert.pem") +
			"\ncertserial = " + in("certserial") + "\n",
		"swtpm-localca.options": "--platform-manufacturer Gangway\n--platform-version 1.0\n--platform-model swtpm\n",
	}
	for name, text := range files {
		if err := os.WriteFile(at(name), []byte(text), 0o600); err != nil {
			return "", fmt.Errorf("swtpm: %w", err)
		}
	}
	return at("swtpm_setup.conf"), nil
}

// makerCertificates reads the certificates of the maker's root and of the intermediate CA that
// issues EK certificates.
func makerCertificates(maker string) (root, issuer *x509.Certificate, err error) {
	if root, err = readCertificate(filepath.Join(maker, "swtpm-localca-rootca-cert.pem")); err != nil {
		return nil, nil, err
	}
	issuer, err = readCertificate(filepath.Join(maker, "issuercert.pem"))
	return root, issuer, err
}

func readCertificate(path string) (*x509.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("swtpm: reading the maker's certificate: %w", err)
	}
	block, _ := pem.Decode(b) // skip the description that certtool writes before the PEM
	if block == nil {
		return nil, fmt.Errorf("swtpm: %s does not hold a PEM certificate", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("swtpm: %s: %w", path, err)
	}
	return cert, nil
}
