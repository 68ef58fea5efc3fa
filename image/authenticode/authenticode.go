// Package authenticode signs EFI programs so that firmware with Secure Boot starts them (UEFI 32.5;
// Microsoft's "Windows Authenticode Portable Executable Signature Format"). Package image/stick
// uses it for signed images. The signatures are made by the program osslsigncode, which is part of
// Debian, and whose result the package checks.
package authenticode

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"debug/pe"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

const program = "osslsigncode"

// Missing returns a sentence about the program that must be installed, or "" if it is installed.
func Missing() string {
	if _, err := exec.LookPath(program); err != nil {
		return "signing needs osslsigncode: install it with `apt-get install osslsigncode`"
	}
	return ""
}

// Signer signs with a key whose certificate is in the firmware's variable db (the Secure Boot
// certificates that firmware accepts).
type Signer struct {
	key, cert string // files, PEM
	Leaf      *x509.Certificate
}

// New makes a Signer from the PEM files of a key and its certificate. The key must not have a
// password.
func New(key, cert string) (*Signer, error) {
	if m := Missing(); m != "" {
		return nil, errors.New("image: " + m)
	}
	leaf, err := readCertificate(cert)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(key); err != nil {
		return nil, fmt.Errorf("image: the Secure Boot key: %w", err)
	}
	return &Signer{key: key, cert: cert, Leaf: leaf}, nil
}

func readCertificate(name string) (*x509.Certificate, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("image: the Secure Boot certificate: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("image: %s is not a PEM certificate", name)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("image: %s: %w", name, err)
	}
	return c, nil
}

// Name returns a certificate's subject and SHA-256, in words for people.
func Name(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return fmt.Sprintf("%s, SHA-256 %s", c.Subject, hex.EncodeToString(sum[:]))
}

// Sign returns the program with a signature, which replaces any earlier signature. The same program
// and key give the same bytes, because the signature is dated to the start of the certificate's
// validity and not to the current time.
func (s *Signer) Sign(efi []byte) (signed []byte, err error) {
	err = withFiles(efi, func(in, out string) error {
		if Signed(efi) {
			if err := run("remove-signature", "-in", in, "-out", out); err != nil {
				return err
			}
			if err := os.Rename(out, in); err != nil {
				return fmt.Errorf("image: %w", err)
			}
		}
		err := run("sign", "-h", "sha256", "-certs", s.cert, "-key", s.key, "-time", strconv.FormatInt(s.Leaf.NotBefore.Unix(), 10), "-in", in, "-out", out)
		if err != nil {
			return err
		}
		signed, err = os.ReadFile(out)
		return err
	})
	if err != nil {
		return nil, err
	}
	return signed, Verify(signed, s.cert)
}

// ErrSignature means that a program is not signed by the certificate, or was changed after it was
// signed.
var ErrSignature = errors.New("image: the program is not signed by this certificate, or was changed after it was signed")

// Verify checks that a program has a valid signature by the certificate in the file `cert`, or by a
// certificate that this one has issued.
func Verify(efi []byte, cert string) error {
	c, err := readCertificate(cert)
	if err != nil {
		return err
	}
	if !Signed(efi) {
		return ErrSignature
	}
	return withFiles(efi, func(in, _ string) error {
		// Firmware ignores the dates of certificates, so verify as if now were the start of the
		// certificate's validity.
		err := run("verify", "-in", in, "-CAfile", cert, "-time", strconv.FormatInt(c.NotBefore.Unix(), 10))
		if err != nil {
			return fmt.Errorf("%w: %w", ErrSignature, err)
		}
		return nil
	})
}

// Signed reports whether a program has a signature. It does not check the signature.
func Signed(efi []byte) bool {
	f, err := pe.NewFile(bytes.NewReader(efi))
	if err != nil {
		return false
	}
	opt, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	return ok && opt.NumberOfRvaAndSizes > pe.IMAGE_DIRECTORY_ENTRY_SECURITY && opt.DataDirectory[pe.IMAGE_DIRECTORY_ENTRY_SECURITY].Size != 0
}

func withFiles(efi []byte, do func(in, out string) error) error {
	dir, err := os.MkdirTemp("", "gangway-sign")
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	defer os.RemoveAll(dir)
	in := filepath.Join(dir, "in.efi")
	if err := os.WriteFile(in, efi, 0o600); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	return do(in, filepath.Join(dir, "out.efi"))
}

func run(args ...string) error {
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("image: osslsigncode %s: %w: %s", args[0], err, strings.Join(lines[max(0, len(lines)-3):], "; "))
	}
	return nil
}
