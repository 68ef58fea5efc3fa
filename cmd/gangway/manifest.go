package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"gangway/device/identity/tpmrc"
	"gangway/wire/manifest"
	"gangway/wire/manifest/corim"
	"gangway/wire/manifest/measure"

	"github.com/spf13/cobra"
)

func (a *app) manifestCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "manifest", Short: "Read and verify reference manifests, and create the keys that sign them",
		Long: `A reference manifest says what a machine measures when it starts one of your systems.
'gangway image build' and 'gangway image system' make a manifest with
--manifest-key, and sign the manifest with your key. The hub compares the boots of your
machines with the manifest.`,
	}
	c.AddCommand(a.manifestShow(), a.manifestVerify(), a.manifestExport(), a.manifestKey())
	return c
}

// shownManifest is the JSON output of 'gangway manifest show' and 'gangway manifest verify'.
type shownManifest struct {
	Verified bool               `json:"verified"`
	Key      string             `json:"key"` // id of the key that the manifest names
	Manifest *manifest.Manifest `json:"manifest"`
}

func (a *app) manifestShow() *cobra.Command {
	var keys []string
	c := &cobra.Command{
		Use:   "show FILE",
		Short: "Show a reference manifest",
		Long: `Show prints what a reference manifest says. With --key, the command first verifies the
signature. Without --key, the command verifies nothing, and warns that anyone could
have written the file.`,
		Example: "  gangway manifest show installer.img.manifest --key manifest.key.pub\n  gangway manifest show system.efi.manifest --output json",
		Args:    args("FILE"),
		RunE: func(_ *cobra.Command, arg []string) error {
			text, err := readSmall(arg[0], manifest.MaxSize)
			if err != nil {
				return err
			}
			if len(keys) == 0 {
				m, kid, err := manifest.Unverified(string(text))
				if err != nil {
					return fmt.Errorf("%s: %w", arg[0], err)
				}
				return a.showManifest(shownManifest{false, kid, m})
			}
			shown, err := verified(arg[0], text, keys)
			if err != nil {
				return err
			}
			return a.showManifest(*shown)
		},
	}
	keyFlag(c, &keys)
	return c
}

func keyFlag(c *cobra.Command, keys *[]string) {
	c.Flags().StringArrayVar(keys, "key", nil, "public key (PEM) that you trust, such as the file from 'gangway manifest key create' (repeatable)")
}

// The function `verified` verifies a manifest's text with the public keys in the files `keys`.
func verified(name string, text []byte, keys []string) (*shownManifest, error) {
	var trusted []crypto.PublicKey
	for _, file := range keys {
		b, err := readSmall(file, manifest.MaxSize)
		if err != nil {
			return nil, err
		}
		key, err := manifest.ParseKey(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		trusted = append(trusted, key)
	}
	m, key, err := manifest.Parse(string(text), trusted)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	kid, err := manifest.KeyID(key)
	return &shownManifest{true, kid, m}, err
}

func (a *app) showManifest(s shownManifest) error {
	if done, err := a.json(s); done {
		return err
	}
	m := s.Manifest
	line := func(label, format string, values ...any) {
		a.printf("%-12s %s\n", label, fmt.Sprintf(format, values...))
	}
	line("name", "%s", m.Name)
	line("made", "%s", m.Made.UTC().Format("2006-01-02 15:04:05 UTC"))
	line("sequence", "%d", m.Sequence)
	signed := "by the key " + s.Key
	if !s.Verified {
		signed = "NOT VERIFIED; the file names the key " + s.Key
	}
	line("signed", "%s", signed)
	if m.BootManager != nil {
		line("boot manager", "SHA-256 %s", m.BootManager.SHA256)
		a.digests("PCR 4", m.BootManager.Authenticode)
	}
	line("system", "SHA-256 %s", m.System.SHA256)
	a.digests("PCR 4", m.System.Authenticode)
	line("kernel", "SHA-256 %s", m.System.Kernel.SHA256)
	a.digests("PCR 4", m.System.Kernel.Authenticode)
	line("command line", "%s", m.System.Cmdline)
	for _, bank := range slices.Sorted(maps.Keys(m.System.PCR11)) {
		for _, words := range slices.Sorted(maps.Keys(m.System.PCR11[bank])) {
			after := ""
			if words != "" {
				after = ", after " + strings.ReplaceAll(words, ":", ", ")
			}
			line("PCR 11", "%s %s%s", bank, m.System.PCR11[bank][words], after)
		}
	}
	for _, i := range m.Installers {
		line("installer", "SHA-256 %s", i.SHA256)
		a.digests("PCR 4", i.Authenticode)
	}
	if sb := m.SecureBoot; sb != nil {
		for _, v := range sb.Variables {
			a.digests("PCR 7 "+v.Name, v.Events)
		}
		a.digests("PCR 7 start", sb.Authority)
	}
	if !s.Verified {
		a.note("The signature was not verified: anyone could have written this file. Verify it with --key.")
	}
	return nil
}

// digests prints the digest for each PCR bank.
func (a *app) digests(label string, digests map[string]string) {
	for _, bank := range slices.Sorted(maps.Keys(digests)) {
		a.printf("%-12s %s %s\n", label, bank, digests[bank])
	}
}

func (a *app) manifestVerify() *cobra.Command {
	var keys []string
	var system, manager string
	c := &cobra.Command{
		Use:   "verify FILE --key PUBLIC-KEY",
		Short: "Verify a reference manifest, and compare files with it",
		Long: `Verify checks that one of the keys signed the manifest. With --system and
--boot-manager, it also computes what a machine measures when it starts these files, and
compares the result with the manifest. The exit code is 1 if something does not match.`,
		Example: `  gangway manifest verify installer.img.manifest --key manifest.key.pub
  gangway manifest verify system.efi.manifest --key manifest.key.pub --system system.efi`,
		Args: args("FILE"),
		RunE: func(_ *cobra.Command, arg []string) error {
			if len(keys) == 0 {
				return usagef("--key is needed: the public key of the manifest's owner, such as manifest.key.pub")
			}
			text, err := readSmall(arg[0], manifest.MaxSize)
			if err != nil {
				return err
			}
			s, err := verified(arg[0], text, keys)
			if err != nil {
				return err
			}
			if err := compareSystem(s.Manifest, system); err != nil {
				return err
			}
			if err := compareManager(s.Manifest, manager); err != nil {
				return err
			}
			if done, err := a.json(s); done {
				return err
			}
			a.printf("valid: %s, sequence %d, signed by the key %s\n", s.Manifest.Name, s.Manifest.Sequence, s.Key)
			return nil
		},
	}
	keyFlag(c, &keys)
	c.Flags().StringVar(&system, "system", "", "also compare this system, the file from 'gangway image system'")
	c.Flags().StringVar(&manager, "boot-manager", "", "also compare this boot manager, the file EFI/BOOT/BOOTX64.EFI of an installed disk")
	return c
}

func (a *app) manifestExport() *cobra.Command {
	var keys []string
	var out string
	c := &cobra.Command{
		Use:   "export FILE --key PUBLIC-KEY -o CORIM",
		Short: "Write a reference manifest as a CoRIM, for other verifiers",
		Long: `Export verifies the manifest, and writes it as a CoRIM (draft-ietf-rats-corim-11): the
digests of the programs, PCR 11 as an integrity register, and the Secure Boot variables.
The CoRIM has no signature. Sign it with the key that your verifier expects, for example
with cocli.`,
		Example: "  gangway manifest export installer.img.manifest --key manifest.key.pub -o installer.corim",
		Args:    args("FILE"),
		RunE: func(_ *cobra.Command, arg []string) error {
			if len(keys) == 0 || out == "" {
				return usagef("--key and -o are needed: the public key of the manifest's owner, and the file to write")
			}
			text, err := readSmall(arg[0], manifest.MaxSize)
			if err != nil {
				return err
			}
			s, err := verified(arg[0], text, keys)
			if err != nil {
				return err
			}
			b, err := corim.Export(s.Manifest)
			if err != nil {
				return err
			}
			if err := os.WriteFile(out, b, 0o644); err != nil {
				return err
			}
			if done, err := a.json(map[string]string{"corim": out}); done {
				return err
			}
			a.note("%s (%d bytes, not signed) describes %s, sequence %d", out, len(b), s.Manifest.Name, s.Manifest.Sequence)
			return nil
		},
	}
	keyFlag(c, &keys)
	c.Flags().StringVarP(&out, "out", "o", "", "the file to write (required)")
	return c
}

// compareSystem computes the measurements of the system in a file, and compares them with the
// manifest. It does nothing if the name is empty.
func compareSystem(m *manifest.Manifest, name string) error {
	if name == "" {
		return nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var phases []string
	for _, values := range m.System.PCR11 {
		phases = slices.DeleteFunc(slices.Sorted(maps.Keys(values)), func(words string) bool { return words == "" })
		break // all banks of a manifest have the same phases
	}
	s, err := measure.System(b, phases...)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if !sameSystem(*s, m.System) {
		return fmt.Errorf("%s is not the system that the manifest describes: its SHA-256 is %s, but the manifest names %s", name, s.SHA256, m.System.SHA256)
	}
	return nil
}

// sameSystem compares two systems. It compares only the PCR banks that the manifest has, because
// another program may have made the manifest for fewer banks.
func sameSystem(own, named manifest.System) bool {
	for bank := range own.PCR11 {
		if _, ok := named.PCR11[bank]; !ok {
			delete(own.PCR11, bank)
			delete(own.Authenticode, bank)
			delete(own.Kernel.Authenticode, bank)
		}
	}
	return reflect.DeepEqual(own, named)
}

func compareManager(m *manifest.Manifest, name string) error {
	if name == "" {
		return nil
	}
	if m.BootManager == nil {
		return errors.New("the manifest describes an update, which does not replace the boot manager: omit --boot-manager")
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	p, err := measure.Program(b)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	maps.DeleteFunc(p.Authenticode, func(bank, _ string) bool { _, ok := m.BootManager.Authenticode[bank]; return !ok })
	if !reflect.DeepEqual(p, *m.BootManager) {
		return fmt.Errorf("%s is not the boot manager that the manifest describes: its SHA-256 is %s, but the manifest names %s", name, p.SHA256, m.BootManager.SHA256)
	}
	return nil
}

func (a *app) manifestKey() *cobra.Command {
	c := &cobra.Command{
		Use: "key", Short: "Create keys that sign reference manifests",
		Long: `Key creates the keys that sign your reference manifests. Keep the private key away from
the hub: the hub needs only the public key.`,
	}
	c.AddCommand(a.manifestKeyCreate(), a.manifestKeyPublic())
	return c
}

// madeManifestKey is the JSON output of 'gangway manifest key create'.
type madeManifestKey struct {
	Private string `json:"private-key"` // a file or a URI, such as tpm:HANDLE
	Public  string `json:"public-key"`  // a file
	Key     string `json:"key"`         // the key's id
}

func (a *app) manifestKeyCreate() *cobra.Command {
	var useRSA bool
	var tpm, public string
	c := &cobra.Command{
		Use:   "create FILE|tpm:HANDLE",
		Short: "Create a key that signs reference manifests",
		Long: `Create writes a new private key to FILE, and its public key to FILE.pub, both in PEM.
The key is a P-256 key, or an RSA key of 2048 bits with --rsa, for machines whose TPM
does not support P-256. The command never overwrites a file.

Anyone with the private key can declare any system to be yours. Keep the private key
away from the hub, and do not lose it.

With tpm:HANDLE, the command makes a P-256 key in the TPM of this machine, at a free
persistent handle, and writes the public key to the file of --public. The key never
leaves the TPM, and nobody can copy it. If you clear the TPM, the key is gone.
tpm:HANDLE?device=ADDRESS names another TPM.

For a key in an HSM, use 'gangway-signer create-key', and then 'gangway manifest key
public'.`,
		Example: `  gangway manifest key create manifest.key
  gangway manifest key create manifest.key --rsa
  gangway manifest key create tpm:0x81010050 --public manifest.pub`,
		Args: args("FILE or tpm:HANDLE"),
		RunE: func(c *cobra.Command, arg []string) error {
			if isKeyURI(arg[0]) {
				if useRSA || public == "" {
					return usagef("tpm:HANDLE needs --public, the file for the public key, and cannot be used with --rsa")
				}
				return a.createInTPM(c.Context(), arg[0], tpm, public)
			}
			if public != "" {
				return usagef("--public is for keys in a TPM: the public key of FILE is in FILE.pub")
			}
			private, text, kid, err := newManifestKey(useRSA)
			if err != nil {
				return err
			}
			made := madeManifestKey{arg[0], arg[0] + ".pub", kid}
			if err := createFile(made.Private, private, 0o600); err != nil {
				return err
			}
			return a.createdKey(made, text)
		},
	}
	c.Flags().BoolVar(&useRSA, "rsa", false, "create an RSA key of 2048 bits")
	c.Flags().StringVar(&public, "public", "", "with tpm:HANDLE: the file for the public key (required)")
	tpmFlag(c.Flags(), &tpm)
	return c
}

func (a *app) manifestKeyPublic() *cobra.Command {
	var tpm, out string
	c := &cobra.Command{
		Use:   "public KEY -o FILE",
		Short: "Write the public key of a key in an HSM, a TPM or a file",
		Long: `Public writes the public key of a manifest key to a file in PEM, and prints the key's id.
KEY is a name as for --manifest-key: tpm:HANDLE, signer:SOCKET?key=NAME for a key in an
HSM that gangway-signer serves, or a file. The command never overwrites a file.`,
		Example: `  gangway manifest key public 'signer:/run/gangway-signer/socket?key=manifest' -o manifest.pub
  gangway manifest key public tpm:0x81010050 -o manifest.pub`,
		Args: args("KEY"),
		RunE: func(c *cobra.Command, arg []string) error {
			if out == "" {
				return usagef("-o is needed: the file for the public key")
			}
			return a.publicKey(c.Context(), arg[0], tpm, out)
		},
	}
	c.Flags().StringVarP(&out, "out", "o", "", "the file for the public key (required)")
	tpmFlag(c.Flags(), &tpm)
	return c
}

// createInTPM makes a key in a TPM.
func (a *app) createInTPM(ctx context.Context, name, tpm, public string) error {
	u, err := keyURI(name, tpm)
	if err != nil {
		return err
	}
	if !u.Makes() {
		return usagef("%s: this command makes keys only in files (write the path without file:) and in TPMs; for a key in an HSM, use 'gangway-signer create-key', and then 'gangway manifest key public'", name)
	}
	if exists(public) {
		return fmt.Errorf("%s exists already: choose another file for the public key", public)
	}
	if err := u.Create(ctx, elliptic.P256()); err != nil {
		return tpmrc.Explain(err, tpmrc.Owner)
	}
	return a.publicKey(ctx, name, tpm, public)
}

// publicKey opens the key with the name or URI `name`, and writes its public half to the file
// `public`.
func (a *app) publicKey(ctx context.Context, name, tpm, public string) error {
	key, err := openManifestKey(ctx, name, tpm)
	if err != nil {
		return err
	}
	text, err := manifest.MarshalKey(key.Public())
	if err != nil {
		return err
	}
	kid, err := manifest.KeyID(key.Public())
	if err != nil {
		return err
	}
	return a.createdKey(madeManifestKey{name, public, kid}, text)
}

// createdKey writes the public half of a new key to a file, and prints the result of 'gangway
// manifest key create'.
func (a *app) createdKey(made madeManifestKey, public []byte) error {
	if err := createFile(made.Public, public, 0o644); err != nil {
		return err
	}
	if done, err := a.json(made); done {
		return err
	}
	a.printf("%s\n", made.Key)
	a.note("The private key is in %s, the public key in %s.", made.Private, made.Public)
	return nil
}

// newManifestKey makes a key pair that signs manifests. It returns the private and the public key
// in PEM, and the key's id.
func newManifestKey(useRSA bool) (private, public []byte, kid string, err error) {
	var key crypto.Signer
	if useRSA {
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return nil, nil, "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, "", err
	}
	if public, err = manifest.MarshalKey(key.Public()); err != nil {
		return nil, nil, "", err
	}
	kid, err = manifest.KeyID(key.Public())
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), public, kid, err
}

// createFile writes a new file. It returns an error if the file exists already.
func createFile(name string, b []byte, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// readSmall reads a file of at most `limit` bytes.
func readSmall(name string, limit int) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err == nil && len(b) > limit {
		err = fmt.Errorf("%s has more than %d bytes, so the file is neither a manifest nor a key", name, limit)
	}
	return b, err
}
