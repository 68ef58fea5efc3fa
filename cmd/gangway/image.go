package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"gangway/device/console/access"
	"gangway/device/install"
	"gangway/image/authenticode"
	"gangway/image/secureboot"
	"gangway/image/stick"
	"gangway/wire"
	"gangway/wire/trail/sig"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func (a *app) imageCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "image", Short: "Build and inspect installer images",
		Long: `Image builds the images of USB sticks that install Gangway on machines, and the
systems that update installed machines. Run 'fetch' once before 'build'. See
docs/image.md.`,
	}
	c.AddCommand(a.imageBuild(), a.imageSystem(), a.imageInspect(), a.imageTry(), a.imageFetch(), a.imageParts(), a.imageKeys(), a.imageEscrowKey())
	return c
}

// imageOptions are the options of 'gangway image build'.
type imageOptions struct {
	token, hub                        string
	out, disk, kernel, boot, programs string
	escrow                            string
	merge                             []string
	console                           string // level of the console
	debug, claim, reset               bool
	signKey, signCert, keys           string
	enrol, revisionKey                string
	network                           networkOptions
	manifest                          manifestOptions
}

func (a *app) imageBuild() *cobra.Command {
	var o imageOptions
	c := &cobra.Command{
		Use:   "build TARGET --token-file FILE -o IMAGE",
		Short: "Build an installer image for a USB stick",
		Long: `Build makes the image of a stick that installs Gangway on a machine, without a key
press. The machine then onboards as a device of the join token's owner. TARGET is
x64-uefi-installer. Build needs no privileges. The same input gives the same image,
byte for byte.

The image contains the join token's secret: guard the image, and the sticks, like a key.
With --claim the image contains no secret: each machine shows a claim code, and its
owner claims the machine with that code at the hub.

With --reset-only the stick installs nothing: it wipes a machine for its next owner.
It erases all data of Gangway on the machine's disks, and clears the TPM. The
TPM's endorsement key stays: delete the device at your hub, or the machine becomes
your device again when it onboards.

If your network does not configure machines, give the settings: with --address and
the other network options, or in one file (--network-file). They are on the stick as
network.txt, which you can edit on any computer. The installed system keeps the
settings. See docs/image.md.

With --manifest-key, the command also writes a reference manifest, IMAGE.manifest: what
an installed machine measures when it starts, signed by your key. The hub compares the
boots of your machines with the manifest.

With --revision-key, the devices install only revisions that your key has signed. An
attacker who controls the hub can then install nothing on them. See docs/trails.md.`,
		Example: `  gangway image build x64-uefi-installer --token-file device_autojointoken.json -o installer.img
  gangway image build x64-uefi-installer --token-file t.json --disk 'model:Samsung*' -o installer.img
  gangway image build x64-uefi-installer --token-file t.json --address 192.0.2.10/24 --gateway 192.0.2.1 --dns 192.0.2.53 --vlan 42
  gangway image build x64-uefi-installer --token-file t.json --proxy https://proxy.example:3129 --proxy-ca proxy-ca.pem --ntp ntp.example
  gangway image build x64-uefi-installer --token-file t.json --manifest-key manifest.key -o installer.img
  gangway image build x64-uefi-installer --reset-only -o reset.img`,
		Args: args("TARGET"),
		RunE: func(c *cobra.Command, arg []string) error {
			if arg[0] != stick.Target {
				return usagef("unknown target %q; the only target is %s", arg[0], stick.Target)
			}
			if o.reset {
				for _, other := range append(networkFlags, "token-file", "claim", "hub-file", "disk", "escrow-to", "merge", "debug", "secure-boot-enrol", "manifest-key", "disk-pin", "revision-key") {
					if c.Flags().Changed(other) {
						return usagef("--reset-only installs nothing: leave --%s out", other)
					}
				}
				if !c.Flags().Changed("out") {
					o.out = "reset.img"
				}
				return a.buildReset(o)
			}
			return a.buildImage(c.Context(), o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.token, "token-file", "", "token file, device_autojointoken.json; - is standard input (this, --claim or --reset-only is required)")
	f.BoolVar(&o.claim, "claim", false, "build without a join token; each machine displays a claim code for the hub you are signed in to")
	f.StringVar(&o.hub, "hub-file", "", "with --claim: hub file, the JSON file with the name and the CA of the hub (default: the hub that you are signed in to); - is standard input")
	f.BoolVar(&o.reset, "reset-only", false, "build an image that wipes machines for their next owners, and installs nothing")
	f.StringVarP(&o.out, "out", "o", "installer.img", "the image file to write")
	f.StringVar(&o.disk, "disk", "largest", "the disk to install to: largest, /dev/NAME, serial:NUMBER or model:PATTERN; removable and USB disks only if you name them")
	o.partsFlags(f)
	f.StringVar(&o.enrol, "secure-boot-enrol", "", "enrol the keys of --secure-boot-keys on machines with firmware in setup mode: ask (a menu entry) or always (without a key press)")
	f.StringVar(&o.escrow, "escrow-to", "", "store disk recovery keys on the hub, encrypted to this age recipient (age1..., or the file from 'gangway image escrow-key')")
	f.StringArrayVar(&o.merge, "merge", nil, "merge a pvr source into the devices' first revision: a checkout's folder, a file of 'pvr export', or a trail on your hub (repeatable; a later source overrides an earlier one)")
	f.BoolVar(&o.debug, "debug", false, "give the devices a shell; the command prints the shell's password")
	o.consoleFlag(f)
	o.network.flags(f)
	return c
}

func (o *imageOptions) consoleFlag(f *pflag.FlagSet) {
	f.StringVar(&o.console, "console", "full", "what a person at the machine's screen or serial line can do: off, read (see the machine's state), on (also restart the machine and change network settings) or full (also wipe the machine)")
}

func (o *imageOptions) partsFlags(f *pflag.FlagSet) {
	f.StringVar(&o.kernel, "kernel", "", "folder with vmlinuz, modules/ and busybox (default: the folder that 'gangway image fetch' uses without --dir, or ../lib/gangway/kernel)")
	f.StringVar(&o.boot, "boot", "", "folder of systemd's EFI programs (default: Debian's, /usr/lib/systemd/boot/efi)")
	f.StringVar(&o.keys, "secure-boot-keys", "", "sign the EFI programs for Secure Boot with the db key of this folder, made by 'gangway image keys'; needs osslsigncode")
	f.StringVar(&o.signKey, "secure-boot-key", "", "sign the EFI programs for Secure Boot with this key (PEM, without a password); needs osslsigncode")
	f.StringVar(&o.signCert, "secure-boot-cert", "", "certificate (PEM) of --secure-boot-key; it must be in the machines' db")
	f.StringVar(&o.revisionKey, "revision-key", "", "public keys (PEM) of which one must sign each revision; the devices install no other revisions, even if the hub orders them (default: no signature is needed)")
	f.StringVar(&o.programs, "programs", "", "folder of gangway-init and gangway-agent (default: this program's folder, ../lib/gangway, or the programs embedded in this program)")
	o.manifest.flags(f)
}

// parts loads the files from which images are built.
func (o *imageOptions) parts() (_ *stick.Parts, err error) {
	if o.kernel == "" {
		if o.kernel, err = kernelFolder(); err != nil {
			return nil, err
		}
	}
	if o.programs == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		o.programs = programsFolder(self)
	}
	if o.keys != "" {
		if o.signKey != "" || o.signCert != "" {
			return nil, usagef("--secure-boot-keys names a folder with the key and the certificate: leave --secure-boot-key and --secure-boot-cert out")
		}
		o.signKey, o.signCert = filepath.Join(o.keys, "db.key"), filepath.Join(o.keys, "db.pem")
	}
	if (o.signKey == "") != (o.signCert == "") {
		return nil, usagef("--secure-boot-key and --secure-boot-cert must be given together")
	}
	p, err := stick.LoadParts(o.kernel, o.boot, o.programs)
	if err == nil && o.revisionKey != "" {
		p.RevisionKeys, err = readRevisionKeys(o.revisionKey)
	}
	if err == nil && o.signKey != "" {
		p.Signer, err = authenticode.New(o.signKey, o.signCert)
	}
	return p, err
}

// readRevisionKeys reads a key file with the owner's keys.
func readRevisionKeys(name string) (*sig.Keys, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, sig.MaxKeys+1))
	if err != nil {
		return nil, err
	}
	keys, err := sig.ParseKeys(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; give the public key, as 'openssl pkey -in KEY -pubout' prints it", name, err)
	}
	return keys, nil
}

// readToken reads a token file; "-" is standard input.
func (a *app) readToken(name string) ([]byte, error) {
	if name == "-" {
		b, err := io.ReadAll(io.LimitReader(a.stdin, wire.MaxTokenFile+1))
		if err == nil && len(b) > wire.MaxTokenFile {
			err = fmt.Errorf("standard input is not a token file or hub file, because it has more than %d bytes: give the file from 'gangway token create'", wire.MaxTokenFile)
		}
		return b, err
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > wire.MaxTokenFile {
		return nil, fmt.Errorf("%s is not a token file or hub file, because it has %d bytes; at most %d are allowed: give the file from 'gangway token create'", name, info.Size(), wire.MaxTokenFile)
	}
	return os.ReadFile(name)
}

// built is the JSON output of 'gangway image build'.
type built struct {
	Image string `json:"image"`
	Size  int64  `json:"size"`
	// ConsolePassword is the password of the devices' shell, with --debug.
	ConsolePassword string            `json:"console-password,omitempty"`
	Manifest        *install.Manifest `json:"manifest"`
	// Reference is the file of the reference manifest, with --manifest-key.
	Reference string `json:"reference-manifest,omitempty"`
}

func (a *app) buildImage(ctx context.Context, o imageOptions) error {
	if o.token != "" && o.claim {
		return usagef("--token-file and --claim are mutually exclusive: with --token-file, the machines join the token's owner without a person; with --claim, each shows a claim code and waits for its owner; leave one of them out")
	}
	if o.token == "" && !o.claim {
		return usagef("give --token-file, the token file from 'gangway token create'; or --claim, for machines that show a claim code; or --reset-only, to wipe machines")
	}
	if o.hub != "" && !o.claim {
		return usagef("--hub-file needs --claim: a token file names its hub itself")
	}
	rule, err := install.ParseRule(o.disk)
	if err != nil {
		return usagef("%w", err)
	}
	if o.claim && o.debug {
		return usagef("--debug needs --token-file: the shell's password is derived from the join token's secret")
	}
	console, err := access.Parse(o.console)
	if err != nil {
		return usagef("--console: %w", err)
	}
	enrol, err := o.enrolled()
	if err != nil {
		return err
	}
	token, hub, err := a.tokenOrHubFile(ctx, o)
	if err != nil {
		return err
	}
	a.warnToken(ctx, token)
	recipient, err := escrowTo(o.escrow)
	if err != nil {
		return err
	}
	network, err := o.network.settings()
	if err != nil {
		return err
	}
	reference, err := o.manifest.open(ctx)
	if err != nil {
		return err
	}
	parts, err := o.parts()
	if err != nil {
		return err
	}
	parts.Owner, parts.DiskPIN = reference.owner(), o.manifest.diskPIN
	revision, remove, err := a.firstRevision(ctx, o.merge)
	if err != nil {
		return err
	}
	defer remove()
	m, err := stick.Build(parts, stick.Config{
		Token: token, Hub: hub, Disk: rule, Debug: o.debug, Console: &console, First: revision, Escrow: recipient,
		Enrol: enrol, EnrolUnasked: o.enrol == enrolAlways, Network: network,
		Progress: func(s string) { a.note("%s", s) },
		Boots:    func(manager, system []byte) error { return reference.measure(&o, parts, manager, system) },
		Installs: reference.measureInstaller,
	}, o.out)
	if err != nil {
		return err
	}
	file, err := reference.write(a, o.out)
	if err != nil {
		return err
	}
	password := ""
	if o.debug {
		t, err := wire.ParseTokenFile(token)
		if err == nil {
			password, err = stick.ConsolePassword(t)
		}
		if err != nil {
			return err
		}
		a.note("The devices have a shell; its password is %s.", password)
	}
	return a.built(o.out, password, m, file)
}

// buildReset builds an image that wipes machines.
func (a *app) buildReset(o imageOptions) error {
	parts, err := o.parts()
	if err != nil {
		return err
	}
	m, err := stick.BuildReset(parts, func(s string) { a.note("%s", s) }, o.out)
	if err != nil {
		return err
	}
	a.note("A machine that starts from this stick is WIPED, without a key press. Label the stick.")
	return a.built(o.out, "", m, "")
}

// The method `built` prints the result of 'gangway image build', also with --reset-only. The
// argument `password` is the password of the devices' shell, or empty if they have no shell. The
// argument `reference` is the file of the reference manifest, or empty if there is none.
func (a *app) built(image, password string, m *install.Manifest, reference string) error {
	info, err := os.Stat(image)
	if err != nil {
		return err
	}
	if done, err := a.json(built{image, info.Size(), password, m, reference}); done {
		return err
	}
	a.note("%s, %d MiB. Write it to a stick: dd if=%s of=/dev/sdX bs=4M conv=fsync", image, info.Size()>>20, image)
	return nil
}

// tokenOrHubFile returns one of two files. Without --claim, the result `token` is the token file.
// With --claim, the result `hub` is the file of --hub-file or, by default, the hub file of the hub
// that the user is signed in to. The other result is nil.
func (a *app) tokenOrHubFile(ctx context.Context, o imageOptions) (token, hub []byte, err error) {
	if o.hub != "" {
		if hub, err = a.readToken(o.hub); err == nil {
			_, err = wire.ParseHubFile(hub)
		}
		return nil, hub, err
	}
	if o.claim {
		s, err := loadSignIn(ctx)
		if err != nil {
			return nil, nil, err
		}
		hub, err = s.hubFile()
		return nil, hub, err
	}
	token, err = a.readToken(o.token)
	return token, nil, err
}

// hubFile returns the hub file of the hub that the user is signed in to.
func (s *signIn) hubFile() ([]byte, error) {
	name := s.hubName()
	if name == "" {
		return nil, errors.New("the hub's CA cannot be read; sign in again")
	}
	return json.MarshalIndent(wire.HubFile{Hub: s.Hub, HubName: name, HubCA: s.HubCA}, "", "  ")
}

// hubName returns the name of the hub that the user is signed in to. It is empty if
// the hub's CA cannot be read.
func (s *signIn) hubName() string {
	block, _ := pem.Decode([]byte(s.HubCA))
	if block == nil {
		return ""
	}
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return ""
	}
	name := sha256.Sum256(root.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(name[:])
}

func (a *app) imageInspect() *cobra.Command {
	var cert string
	c := &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Show what an installer image does, without its secret",
		Long: `Inspect reads an image or a stick, and checks its parts against their hashes. It
shows what the image installs or wipes, on which disk, who will own the machine, and
whether the image is signed for Secure Boot.`,
		Example: "  gangway image inspect installer.img\n  gangway image inspect /dev/sdb --output json",
		Args:    args("IMAGE"),
		RunE: func(_ *cobra.Command, arg []string) error {
			c, err := stick.Inspect(arg[0], cert)
			if err != nil {
				return err
			}
			if done, err := a.json(c); done {
				return err
			}
			m := c.Manifest
			a.printf("%-10s %s, kernel %s\n", "image", m.Target, m.Kernel)
			a.printf("%-10s %s\n", "manifest", c.ManifestSHA256)
			for _, e := range c.Entries {
				a.printf("%-10s %s\n%-10s   %s\n", "entry", e.Title, "", e.Cmdline)
			}
			a.printf("%-10s %s\n", "signed", signedWords(c.Signed, cert))
			if m.Enrol != nil {
				a.printf("%-10s the image enrols keys for Secure Boot if the firmware is in setup mode; %s\n", "enrols", unaskedWords(m.Enrol.Unasked))
				for _, v := range []secureboot.Variable{secureboot.PK, secureboot.KEK, secureboot.DB} {
					for _, name := range c.Enrols[v] {
						a.printf("%-10s   %-3s %s\n", "", v, name)
					}
				}
			}
			if m.Reset {
				a.printf("%-10s the image wipes the disks that Gangway is on, and the TPM's owner hierarchy, and installs nothing\n", "wipes")
				return nil
			}
			a.printf("%-10s %s\n", "disk", ruleWords(m.Disk))
			for _, p := range m.Parts {
				a.printf("%-10s %s, %d MiB, of which %.1f MiB are written, SHA-256 %s\n", "writes", p.Name, p.Size>>20, float64(p.Packed())/(1<<20), p.SHA256)
			}
			if m.Escrow != "" {
				a.printf("%-10s recovery keys of encrypted disks, for %s\n", "escrow", m.Escrow)
			}
			if m.Approved {
				a.printf("%-10s the TPM opens an encrypted disk only for systems that the owner's key approved\n", "opens")
			}
			if m.RevisionKeys != "" {
				a.printf("%-10s the devices install only revisions that the owner's keys have signed; SHA-256 of the key file %s\n", "installs", m.RevisionKeys)
			}
			if r := m.First; r != nil {
				a.printf("%-10s %s; %d object(s), %.1f MiB, state %s\n", "first", strings.Join(printable(r.Parts), ", "), r.Objects, float64(r.Size)/(1<<20), r.SHA256)
			}
			for _, line := range c.Network {
				a.printf("%-10s %s\n", "network", line)
			}
			if c.NetworkMistake != "" {
				a.printf("%-10s the network settings cannot be used, so nothing is installed: %s\n", "network", c.NetworkMistake)
			}
			if m.Token == "" {
				a.printf("%-10s %s\n%-10s none: the machine shows a claim code; its owner claims the machine with the code at the hub\n", "hub", m.Hub, "token")
				return nil
			}
			token, err := json.Marshal(c.Token["token"])
			if err != nil {
				return err
			}
			a.printf("%-10s %s\n%-10s %s\n", "hub", m.Hub, "owner", m.Owner)
			a.printf("%-10s %s, secret %s, until %v\n", "token", m.Token, strings.Trim(string(token), `"`), c.Token["expires"])
			if m.Debug {
				a.printf("%-10s a shell with a password on the device\n", "debug")
			}
			return nil
		},
	}
	c.Flags().StringVar(&cert, "secure-boot-cert", "", "check that this certificate (PEM) signed all EFI programs; needs osslsigncode")
	return c
}

func signedWords(signed bool, cert string) string {
	switch {
	case !signed:
		return "no: the image does not start on a machine with Secure Boot"
	case cert == "":
		return "yes; use --secure-boot-cert to check which certificate signed it"
	}
	return "yes, by " + cert
}

func unaskedWords(unasked bool) string {
	if unasked {
		return "without a key press"
	}
	return "by a menu entry"
}

func ruleWords(r install.Rule) string {
	if r == install.Largest {
		return "the largest built-in disk; the installer asks a person if two disks have the same size, or if no disk is built in"
	}
	return string(r)
}

func (a *app) imageFetch() *cobra.Command {
	var dir string
	var update bool
	c := &cobra.Command{
		Use:   "fetch",
		Short: "Download the parts of images from Debian: a kernel with its modules, and busybox",
		Long: `Fetch downloads Debian's packages linux-image-amd64 and busybox-static with apt-get,
which checks their signatures. It keeps the files that images need, and installs
nothing on this system. The package systemd-boot-efi must be installed.`,
		Example: "  gangway image fetch\n  gangway image fetch --update",
		Args:    args(),
		RunE: func(c *cobra.Command, _ []string) error {
			if dir == "" {
				var err error
				if dir, err = cacheDir(); err != nil {
					return err
				}
			}
			release, err := stick.Fetch(c.Context(), dir, update)
			if err != nil {
				return err
			}
			a.note("Kernel: %s, in %s", release, dir)
			return nil
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "folder for the files (default: in your cache folder)")
	c.Flags().BoolVar(&update, "update", false, "download again, to get Debian's current kernel")
	return c
}

func cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "gangway", "kernel"), nil
}
