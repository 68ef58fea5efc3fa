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
	"os"
	"path/filepath"
	"strings"

	"gangway/device/install"
	"gangway/image/authenticode"
	"gangway/image/secureboot"
	"gangway/image/stick"
	"gangway/wire"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func (a *app) imageCommand() *cobra.Command {
	c := &cobra.Command{Use: "image", Short: "Make installer images, and look into them"}
	c.AddCommand(a.imageBuild(), a.imageSystem(), a.imageInspect(), a.imageFetch(), a.imageKeys(), a.imageEscrowKey())
	return c
}

// imageOptions are the options of image build.
type imageOptions struct {
	token, out, disk, kernel, boot, programs string
	escrow                                   string
	merge                                    []string
	debug, claim, reset                      bool
	signKey, signCert, keys                  string
	enrol                                    string
	network                                  networkOptions
}

func (a *app) imageBuild() *cobra.Command {
	var o imageOptions
	c := &cobra.Command{
		Use:   "build TARGET --token-file FILE -o IMAGE",
		Short: "Make an installer image for a USB stick",
		Long: `Build makes the image of a stick that installs Gangway on a machine and brings it
into the fleet of the join token's owner, with no key pressed. The target is
x64-uefi-installer. It needs no privileges, and the same input gives the same
image to the byte.

The image holds the join token's secret: guard it, and the sticks, like a key.
With --claim it holds none: each machine shows a code, and is the device of who
takes that to the hub.

With --reset-only the stick installs nothing: it wipes a machine for its next
owner. What Gangway has on its disks is destroyed, and the TPM is cleared. Its
endorsement key stays; remove the device from your hub, or it comes back to you.

Where the network does not configure its machines, say how: --address and the
options beside it, or all of it in a file (--network-file). The settings are on
the stick as network.txt, which any computer can edit, and the installed system
keeps them. docs/image.md explains them.`,
		Example: `  gangway image build x64-uefi-installer --token-file device_autojointoken.json -o installer.img
  gangway image build x64-uefi-installer --token-file t.json --disk 'model:Samsung*' -o installer.img
  gangway image build x64-uefi-installer --token-file t.json --address 192.0.2.10/24 --gateway 192.0.2.1 --dns 192.0.2.53 --vlan 42
  gangway image build x64-uefi-installer --token-file t.json --proxy https://proxy.example:3129 --proxy-ca proxy-ca.pem --ntp ntp.example
  gangway image build x64-uefi-installer --reset-only -o reset.img`,
		Args: args("TARGET"),
		RunE: func(c *cobra.Command, arg []string) error {
			if arg[0] != stick.Target {
				return usagef("there is no target %q; there is %s", arg[0], stick.Target)
			}
			if o.reset {
				for _, other := range append(networkFlags, "token-file", "claim", "disk", "escrow-to", "merge", "debug", "secure-boot-enrol") {
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
	f.StringVar(&o.token, "token-file", "", "join token file, device_autojointoken.json (required, or --claim, or --reset-only)")
	f.BoolVar(&o.claim, "claim", false, "no token: the machines show a code, and are the devices of who takes it to the hub that you are signed in to")
	f.BoolVar(&o.reset, "reset-only", false, "a stick that wipes machines for their next owners, and installs nothing")
	f.StringVarP(&o.out, "out", "o", "installer.img", "the image")
	f.StringVar(&o.disk, "disk", "largest", "which disk auto installs to: largest, /dev/NAME, serial:NUMBER or model:PATTERN; one that is removable or on USB only if it is named")
	o.partsFlags(f)
	f.StringVar(&o.enrol, "secure-boot-enrol", "", "have machines whose firmware is in setup mode take the keys of --secure-boot-keys: ask (an entry of the menu) or always (with no key pressed)")
	f.StringVar(&o.escrow, "escrow-to", "", "keep the recovery keys of encrypted disks at the hub, for who has the identity of this age recipient (age1..., or the file that 'gangway image escrow-key' made)")
	f.StringArrayVar(&o.merge, "merge", nil, "merge a pvr source into the devices' first revision: a checkout's folder, a file of 'pvr export', or a trail on your hub; may be given again, the last one wins")
	f.BoolVar(&o.debug, "debug", false, "give the devices a console, with a password that is printed")
	o.network.flags(f)
	return c
}

func (o *imageOptions) partsFlags(f *pflag.FlagSet) {
	f.StringVar(&o.kernel, "kernel", "", "a folder with vmlinuz, modules/ and busybox (default: what 'gangway image fetch' fetched)")
	f.StringVar(&o.boot, "boot", "", "the folder of systemd's programs for EFI (default: Debian's, /usr/lib/systemd/boot/efi)")
	f.StringVar(&o.keys, "secure-boot-keys", "", "sign what firmware starts with the db key of a folder that 'gangway image keys' made, for Secure Boot; needs osslsigncode")
	f.StringVar(&o.signKey, "secure-boot-key", "", "sign what firmware starts with this key (PEM, without a password), for Secure Boot; needs osslsigncode")
	f.StringVar(&o.signCert, "secure-boot-cert", "", "the key's certificate (PEM), which is in the machines' db")
	f.StringVar(&o.programs, "programs", "", "the folder of gangway-init and gangway-agent (default: this program's, or ../lib/gangway beside it)")
}

// parts loads what images are made of.
func (o *imageOptions) parts() (_ *stick.Parts, err error) {
	if o.kernel == "" {
		if o.kernel, err = fetched(); err != nil {
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
			return nil, usagef("--secure-boot-keys has the key and the certificate: leave --secure-boot-key and --secure-boot-cert out")
		}
		o.signKey, o.signCert = filepath.Join(o.keys, "db.key"), filepath.Join(o.keys, "db.pem")
	}
	if (o.signKey == "") != (o.signCert == "") {
		return nil, usagef("--secure-boot-key and --secure-boot-cert go together")
	}
	p, err := stick.LoadParts(o.kernel, o.boot, o.programs)
	if err == nil && o.signKey != "" {
		p.Signer, err = authenticode.New(o.signKey, o.signCert)
	}
	return p, err
}

// programsFolder returns the folder of gangway-init and gangway-agent: that of this
// program, as after `make build`, or ../lib/gangway, where packages install them.
func programsFolder(self string) string {
	beside := filepath.Dir(self)
	installed := filepath.Join(filepath.Dir(beside), "lib/gangway")
	if !exists(filepath.Join(beside, "gangway-init")) && exists(installed) {
		return installed
	}
	return beside
}

func readToken(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > wire.MaxTokenFile {
		return nil, fmt.Errorf("%s is no join token file: it has %d bytes", name, info.Size())
	}
	return os.ReadFile(name)
}

// built is what image build prints as JSON.
type built struct {
	Image string `json:"image"`
	Size  int64  `json:"size"`
	// ConsolePassword is the devices', where they have a console.
	ConsolePassword string            `json:"console-password,omitempty"`
	Manifest        *install.Manifest `json:"manifest"`
}

func (a *app) buildImage(ctx context.Context, o imageOptions) error {
	if (o.token == "") != o.claim {
		return usagef("--token-file is needed, the join token file that 'gangway token create' makes; or --claim, for machines that show a code; or --reset-only, to wipe machines")
	}
	rule, err := install.ParseRule(o.disk)
	if err != nil {
		return usageError{err}
	}
	if o.claim && o.debug {
		return usagef("--debug needs --token-file: the console's password follows from the token's secret")
	}
	enrol, err := o.enrolled()
	if err != nil {
		return err
	}
	token, hub, err := o.whose()
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
	parts, err := o.parts()
	if err != nil {
		return err
	}
	revision, remove, err := a.firstRevision(ctx, o.merge)
	if err != nil {
		return err
	}
	defer remove()
	m, err := stick.Build(parts, stick.Config{
		Token: token, Hub: hub, Disk: rule, Debug: o.debug, First: revision, Escrow: recipient,
		Enrol: enrol, EnrolUnasked: o.enrol == enrolAlways, Network: network,
		Progress: func(s string) { a.note("%s", s) },
	}, o.out)
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
		a.note("The devices have a console; its password is %s.", password)
	}
	return a.built(o.out, password, m)
}

// buildReset makes the image of a stick that wipes.
func (a *app) buildReset(o imageOptions) error {
	parts, err := o.parts()
	if err != nil {
		return err
	}
	m, err := stick.BuildReset(parts, func(s string) { a.note("%s", s) }, o.out)
	if err != nil {
		return err
	}
	a.note("A machine that starts from this stick is WIPED, with no key pressed. Label it.")
	return a.built(o.out, "", m)
}

// built prints what was made.
func (a *app) built(image, password string, m *install.Manifest) error {
	info, err := os.Stat(image)
	if err != nil {
		return err
	}
	if done, err := a.json(built{image, info.Size(), password, m}); done {
		return err
	}
	a.note("%s, %d MiB. Write it to a stick: dd if=%s of=/dev/sdX bs=4M conv=fsync", image, info.Size()>>20, image)
	return nil
}

// whose reads the join token's file, or makes the hub's of the hub that the
// operator is signed in to.
func (o *imageOptions) whose() (token, hub []byte, err error) {
	if o.claim {
		s, err := loadSignIn()
		if err != nil {
			return nil, nil, err
		}
		hub, err = s.hubFile()
		return nil, hub, err
	}
	token, err = readToken(o.token)
	return token, nil, err
}

// hubFile says which hub it is, without a secret.
func (s *signIn) hubFile() ([]byte, error) {
	name := s.hubName()
	if name == "" {
		return nil, errors.New("the hub's CA cannot be read; sign in again")
	}
	return json.MarshalIndent(wire.HubFile{Hub: s.Hub, HubName: name, HubCA: s.HubCA}, "", "  ")
}

// hubName is the name of the hub that the operator is signed in to; empty if
// its CA cannot be read.
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
		Short: "Show what an installer image will do, without its secret",
		Long: `Inspect reads an image, or a stick, checks its parts against their hashes, and
shows what it installs, or wipes, where to, whose the machine will be, and whether it is
signed for Secure Boot.`,
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
				a.printf("%-10s keys for Secure Boot, where firmware is in setup mode; %s\n", "enrols", unaskedWords(m.Enrol.Unasked))
				for _, v := range []secureboot.Variable{secureboot.PK, secureboot.KEK, secureboot.DB} {
					for _, name := range c.Enrols[v] {
						a.printf("%-10s   %-3s %s\n", "", v, name)
					}
				}
			}
			if m.Reset {
				a.printf("%-10s the disks that Gangway is on, and the TPM's owner hierarchy; installs nothing\n", "wipes")
				return nil
			}
			a.printf("%-10s %s\n", "disk", ruleWords(m.Disk))
			for _, p := range m.Parts {
				a.printf("%-10s %s, %d MiB, of which %.1f MiB are written, SHA-256 %s\n", "writes", p.Name, p.Size>>20, float64(p.Packed())/(1<<20), p.SHA256)
			}
			if m.Escrow != "" {
				a.printf("%-10s recovery keys of encrypted disks, for %s\n", "escrow", m.Escrow)
			}
			if r := m.First; r != nil {
				a.printf("%-10s %s; %d object(s), %.1f MiB, state %s\n", "first", strings.Join(printable(r.Parts), ", "), r.Objects, float64(r.Size)/(1<<20), r.SHA256)
			}
			for _, line := range c.Network {
				a.printf("%-10s %s\n", "network", line)
			}
			if c.NetworkMistake != "" {
				a.printf("%-10s cannot be used, so nothing is installed: %s\n", "network", c.NetworkMistake)
			}
			if m.Token == "" {
				a.printf("%-10s %s\n%-10s none: the machine shows a code, and is the device of who takes it there\n", "hub", m.Hub, "token")
				return nil
			}
			token, err := json.Marshal(c.Token["token"])
			if err != nil {
				return err
			}
			a.printf("%-10s %s\n%-10s %s\n", "hub", m.Hub, "owner", m.Owner)
			a.printf("%-10s %s, secret %s, until %v\n", "token", m.Token, strings.Trim(string(token), `"`), c.Token["expires"])
			if m.Debug {
				a.printf("%-10s a console with login on the device\n", "debug")
			}
			return nil
		},
	}
	c.Flags().StringVar(&cert, "secure-boot-cert", "", "check that all that firmware starts is signed by this certificate (PEM); needs osslsigncode")
	return c
}

func signedWords(signed bool, cert string) string {
	switch {
	case !signed:
		return "no: it does not start where Secure Boot is on"
	case cert == "":
		return "yes; by whom, --secure-boot-cert checks"
	}
	return "yes, by " + cert
}

func unaskedWords(unasked bool) string {
	if unasked {
		return "with no key pressed"
	}
	return "by an entry of the menu"
}

func ruleWords(r install.Rule) string {
	if r == install.Largest {
		return "the largest that is built in; asks if two have the same size, or if none is built in"
	}
	return string(r)
}

func (a *app) imageFetch() *cobra.Command {
	var dir string
	var update bool
	c := &cobra.Command{
		Use:   "fetch",
		Short: "Fetch from Debian what images are made of: a kernel with its modules, and busybox",
		Long: `Fetch downloads Debian's packages linux-image-amd64 and busybox-static with apt-get,
which checks their signatures, and keeps what images need of them. Nothing is
installed on this system. systemd-boot-efi must be installed.`,
		Example: "  gangway image fetch",
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
	c.Flags().StringVar(&dir, "dir", "", "where to (default: your cache folder)")
	c.Flags().BoolVar(&update, "update", false, "fetch anew what is there: today's kernel")
	return c
}

func cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "gangway", "kernel"), nil
}

// fetched is the folder that image fetch made.
func fetched() (string, error) {
	dir, err := cacheDir()
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dir, "vmlinuz")); err != nil {
		return "", errors.New("there is no kernel yet: run `gangway image fetch`, or name a folder with --kernel")
	}
	return dir, nil
}
