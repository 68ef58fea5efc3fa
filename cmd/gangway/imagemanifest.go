package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"gangway/device/identity/tpmrc"
	"gangway/hub/pki/cakey"
	"gangway/image/secureboot"
	"gangway/image/stick"
	"gangway/internal/version"
	"gangway/tcg"
	"gangway/wire/manifest"
	"gangway/wire/manifest/measure"

	"github.com/spf13/pflag"
)

// manifestOptions are the options for the reference manifest, which 'gangway image build' and
// 'gangway image system' share.
type manifestOptions struct {
	key, tpm, name string
	sequence       uint64
	diskPIN        bool
}

func (o *manifestOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.key, "manifest-key", "", "also write a reference manifest, signed with this key: a file (PEM, without a password), tpm:HANDLE (a key in this machine's TPM) or signer:SOCKET?key=NAME (a key in an HSM); 'gangway manifest key create' makes keys in files and TPMs")
	tpmFlag(f, &o.tpm)
	f.BoolVar(&o.diskPIN, "disk-pin", false, "allow a person at the machine's console to give its encrypted disk a PIN, which the machine then asks for at each start")
	f.StringVar(&o.name, "manifest-name", "", "the manifest's name, for people (default: the versions of Gangway and of the kernel)")
	f.Uint64Var(&o.sequence, "sequence", 0, "number of this system, higher than those of your earlier systems: if a machine later starts a system with a lower number, it was rolled back (default: the time, in seconds since 1970, or SOURCE_DATE_EPOCH)")
}

func tpmFlag(f *pflag.FlagSet, address *string) {
	f.StringVar(address, "tpm", "/dev/tpmrm0", "TPM that contains the key tpm:HANDLE, unless the URI's ?device= names it: a device file, unix:/path or tcp:host:port")
}

// A reference makes the reference manifest of one build. A nil *reference makes none.
type reference struct {
	options  *manifestOptions
	key      crypto.Signer
	made     time.Time
	manifest *manifest.Manifest
}

// The method `open` opens the key that signs the manifest. If the options ask for no manifest, it
// returns nil.
func (o *manifestOptions) open(ctx context.Context) (*reference, error) {
	if o.key == "" {
		if o.name != "" || o.sequence != 0 {
			return nil, usagef("--manifest-name and --sequence need --manifest-key: without a key, there is no manifest")
		}
		if o.diskPIN {
			return nil, usagef("--disk-pin needs --manifest-key: only a disk that is bound to your systems can have a PIN")
		}
		return nil, nil
	}
	if len(o.name) > manifest.MaxName || tcg.Printable(o.name) != o.name {
		return nil, usagef("--manifest-name must have at most %d bytes, all of them printable", manifest.MaxName)
	}
	if o.sequence > manifest.MaxSequence {
		return nil, usagef("--sequence must be at most %d, not %d", uint64(manifest.MaxSequence), o.sequence)
	}
	made, err := buildTime()
	if err != nil {
		return nil, err
	}
	key, err := openManifestKey(ctx, o.key, o.tpm)
	if err != nil {
		return nil, err
	}
	return &reference{options: o, key: key, made: made}, nil
}

// buildTime returns the time of a build, in whole seconds. For a reproducible build, the variable
// SOURCE_DATE_EPOCH gives this time (https://reproducible-builds.org/specs/source-date-epoch/).
func buildTime() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Now().UTC().Truncate(time.Second), nil
	}
	seconds, err := strconv.ParseUint(text, 10, 40)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH is %q: it must be a number of seconds since 1970", text)
	}
	return time.Unix(int64(seconds), 0).UTC(), nil
}

// owner returns the key that approves the system for encrypted disks, which is the key that signs
// the manifest.
func (r *reference) owner() crypto.Signer {
	if r == nil {
		return nil
	}
	return r.key
}

// measure computes the manifest of a system. The argument `manager` is the boot manager. It is nil
// for an update, because an update does not replace the boot manager.
func (r *reference) measure(o *imageOptions, parts *stick.Parts, manager, system []byte) error {
	if r == nil {
		return nil
	}
	m := &manifest.Manifest{Format: manifest.Format, Name: r.options.name, Made: r.made, Sequence: r.options.sequence}
	if m.Name == "" {
		m.Name = shortened(tcg.Printable("Gangway "+version.Current.Version+", "+parts.Release), manifest.MaxName)
	}
	if m.Sequence == 0 {
		m.Sequence = uint64(r.made.Unix())
	}
	s, err := measure.System(system)
	if err != nil {
		return fmt.Errorf("the reference manifest of the system: %w", err)
	}
	m.System = *s
	if manager != nil {
		p, err := measure.Program(manager)
		if err != nil {
			return fmt.Errorf("the reference manifest of the boot manager: %w", err)
		}
		m.BootManager = &p
	}
	if m.SecureBoot, err = o.ownersKeys(parts); err != nil {
		return err
	}
	r.manifest = m
	return m.Check()
}

// measureInstaller adds an installer of the image to the manifest. The image builder calls the
// method `measure` first.
func (r *reference) measureInstaller(system []byte) error {
	if r == nil {
		return nil
	}
	s, err := measure.System(system)
	if err != nil {
		return fmt.Errorf("the reference manifest of the installer: %w", err)
	}
	r.manifest.Installers = append(r.manifest.Installers, *s)
	return r.manifest.Check()
}

// ownersKeys returns the Secure Boot variables for the manifest: those of the folder in
// --secure-boot-keys. It returns nil if there is no such folder, if the build is not signed, or if
// the folder has only db's key.
func (o *imageOptions) ownersKeys(parts *stick.Parts) (*manifest.SecureBoot, error) {
	if o.keys == "" || parts.Signer == nil {
		return nil, nil
	}
	set, err := secureboot.Load(o.keys)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return set.Manifest(parts.Signer.Leaf)
}

// write signs the manifest, and writes it next to the file `out`. It returns the name of the
// manifest's file, or "" if no manifest is wanted.
func (r *reference) write(a *app, out string) (string, error) {
	if r == nil {
		return "", nil
	}
	text, err := manifest.Sign(r.manifest, r.key)
	if err != nil {
		return "", tpmrc.Explain(err, tpmrc.None)
	}
	name := out + ".manifest"
	if err := os.WriteFile(name, []byte(text+"\n"), 0o644); err != nil {
		return "", err
	}
	a.note("Reference manifest %s, sequence %d: %s", name, r.manifest.Sequence, r.manifest.Name)
	return name, nil
}

// The function `shortened` returns at most the first `n` bytes of the text, without cutting a
// character in two.
func shortened(text string, n int) string {
	if len(text) > n {
		text = strings.ToValidUTF8(text[:n], "")
	}
	return text
}

// isKeyURI reports whether the name of a key is a URI of package cakey, and not the name of a file.
func isKeyURI(name string) bool {
	scheme, _, found := strings.Cut(name, ":")
	return found && slices.Contains([]string{"file", "tpm", "signer"}, scheme)
}

// keyURI parses the URI of a manifest key. If the key is in a TPM and its URI does not name the
// TPM, `tpm` is the TPM's address.
func keyURI(name, tpm string) (cakey.URI, error) {
	if strings.HasPrefix(name, "tpm:") && !strings.Contains(name, "?") {
		name += "?device=" + url.QueryEscape(tpm)
	}
	u, err := cakey.Parse(name)
	if err != nil {
		return u, usagef("%w", err)
	}
	return u, nil
}

// openManifestKey opens the key in a file or at a URI, and checks that it can sign manifests. For a
// key tpm:HANDLE, `tpm` is the TPM's address.
func openManifestKey(ctx context.Context, name, tpm string) (crypto.Signer, error) {
	if !isKeyURI(name) {
		return readManifestKey(name)
	}
	u, err := keyURI(name, tpm)
	if err != nil {
		return nil, err
	}
	public, err := u.Public(ctx)
	if err != nil {
		return nil, tpmrc.Explain(err, tpmrc.None)
	}
	if err := manifest.CheckKey(public); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return cakey.Open(u, public)
}

// readManifestKey reads a private key in PEM, and checks that it can sign manifests.
func readManifestKey(name string) (crypto.Signer, error) {
	text, err := readSmall(name, manifest.MaxSize)
	if err != nil {
		return nil, err
	}
	key, err := parsePrivateKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return key, manifest.CheckKey(key.Public())
}

// parsePrivateKey reads a private key in PEM, in one of the forms that OpenSSL writes.
func parsePrivateKey(text []byte) (crypto.Signer, error) {
	var block *pem.Block
	for rest := text; ; {
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("the file has no private key in PEM; make a key with 'gangway manifest key create'")
		}
		if block.Type != "EC PARAMETERS" { // OpenSSL writes this block before an EC PRIVATE KEY
			break
		}
	}
	if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
		return nil, errors.New("the key has a password; write a copy without a password into a private folder with 'openssl pkey', build with this copy, and then delete the copy")
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("the file has the PEM block %q instead of a private key", block.Type)
	}
	if err != nil {
		return nil, errors.New("the private key is damaged, or of an unknown type; make a key with 'gangway manifest key create'")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of the type %T cannot sign", key)
	}
	return signer, nil
}
