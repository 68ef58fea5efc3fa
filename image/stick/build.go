package stick

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"gangway/device/console/access"
	"gangway/device/install"
	"gangway/device/install/netfile"
	"gangway/device/install/slots"
	"gangway/image"
	"gangway/image/factory"
	"gangway/image/secureboot"
	"gangway/wire"
	"gangway/wire/trail"
	"gangway/wire/trail/sig"
)

// Target is the name of this kind of image in `gangway image build`.
const Target = "x64-uefi-installer"

// Config configures an image.
type Config struct {
	// Token is the content of the join token file, device_autojointoken.json. If it is empty, each
	// machine displays a claim code, and its owner claims the machine at the hub in the field Hub.
	Token []byte
	// Hub is the content of the hub file (wire.HubFile), which Build uses only if Token is empty.
	Hub []byte
	// Disk is the rule by which the automatic installation chooses the machine's disk.
	Disk install.Rule
	// Escrow is the age recipient to which machines encrypt their recovery keys before they send
	// the keys to the hub. If Escrow is empty, machines do not send them.
	Escrow string
	// First is the device's first revision. Nil means an empty revision.
	First *factory.Revision
	// Enrol contains the Secure Boot keys that firmware in setup mode enrols from the stick. Nil
	// means no keys. The programs in Parts must have signatures that firmware with these keys
	// accepts.
	Enrol *secureboot.Set
	// EnrolUnasked makes the boot manager enrol the keys of Enrol without waiting for a key press.
	EnrolUnasked bool
	// Network contains the machines' network settings. If it is nil, machines get their addresses
	// automatically. In either case, a person can edit the settings on the stick.
	Network *netfile.Settings
	// Debug adds a password-protected shell to the installed system.
	Debug bool
	// Console is the highest access level that the machine's console may have. Nil means
	// access.Full.
	Console *access.Level
	// Progress, if not nil, is called with the name of each step of the build.
	Progress func(string)
	// Boots, if not nil, is called with the EFI programs that an installed machine starts: the boot
	// manager and the system. If Boots returns an error, Build writes no image.
	Boots func(manager, system []byte) error
	// Installs, if not nil, is called with each installer on the stick that installs automatically.
	// The argument is the installer's unified kernel image. If Installs returns an error, Build
	// writes no image.
	Installs func(system []byte) error
}

const (
	mib = 1 << 20
	// espSize is the size in bytes of the installed system's EFI system partition. It has space for
	// two systems (one in each slot) that may still grow. It must be above 260 MiB, because only
	// then can the file system also be written to disks with sectors of 4096 bytes.
	espSize = 265 * mib
	// dataSize is the smallest size in bytes of the data partition in the image. The installed
	// system later enlarges the partition.
	dataSize = 64 * mib
)

// console is the part of the command line that makes the kernel print to the screen and to the
// first serial port.
const console = "console=ttyS0,115200 console=tty0 quiet loglevel=3 "

// entry is an entry of a stick's boot menu.
type entry struct{ name, title, mode string }

// installs lists the menu entries of a stick that installs machines, in order, and resets those of
// a stick that wipes machines. If nobody chooses an entry, the boot manager starts the first one
// after a timeout.
var installs = []entry{
	{"gangway-auto", "Install Gangway (auto)", "auto"},
	{"gangway-autotpm", "Install Gangway (auto TPM)", "tpm"},
	{"gangway-manual", "Install Gangway (manual)", "manual"},
}

var resets = []entry{{"gangway-reset", "Wipe this machine", "reset"}}

// Build writes an installer image to the file `path`, and returns the image's manifest. The same
// parts and configuration give the same bytes.
func Build(p *Parts, cfg Config, path string) (*install.Manifest, error) {
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	token, err := cfg.token()
	if err != nil {
		return nil, err
	}
	if cfg.Enrol != nil && (p.Signer == nil || !cfg.Enrol.Trusts(p.Signer.Leaf)) {
		return nil, errors.New("image: a machine that enrols these keys would not start this image: sign the image with their db key")
	}
	if cfg.Disk == "" {
		cfg.Disk = install.Largest
	}
	if err := p.checkFirst(cfg.First); err != nil {
		return nil, err
	}
	cfg.Progress("Packing drivers and programs")
	base, err := p.base()
	if err != nil {
		return nil, err
	}
	cfg.Progress("Making the system")
	esp, err := p.systemESP(base, token, cfg)
	if err != nil {
		return nil, err
	}
	cfg.Progress("Making the data partition")
	data, err := dataImage(cfg.First)
	if err != nil {
		return nil, err
	}
	m := &install.Manifest{
		Version: 1, Target: Target, Kernel: p.Release, Disk: cfg.Disk, Debug: cfg.Debug,
		Hub: token.Hub, Owner: token.Owner, Token: token.ID, Escrow: cfg.Escrow,
		Approved: p.Owner != nil,
	}
	if p.RevisionKeys != nil {
		m.RevisionKeys = p.RevisionKeys.Name()
	}
	if r := cfg.First; r != nil {
		m.First = &install.First{SHA256: digest(r.State), Parts: r.Parts, Objects: len(r.Objects), Size: r.Size()}
	}
	if m.Network, err = networkPlace(esp); err != nil {
		return nil, err
	}
	files := []image.File{networkFile(cfg.Network)}
	if cfg.Enrol != nil {
		m.Enrol = &install.Enrol{Unasked: cfg.EnrolUnasked, SHA256: map[string]string{}}
		for v, b := range cfg.Enrol.Signed {
			m.Enrol.SHA256[string(v)] = digest(b)
			files = append(files, image.File{Path: keyFile(v), Data: b})
		}
	}
	for _, part := range []struct {
		name  string
		image []byte
	}{{install.ESP, esp}, {install.Data, data}} {
		extents, packed := install.Pack(part.image)
		file := "gangway/" + part.name + ".img"
		m.Parts = append(m.Parts, install.Part{Name: part.name, File: file, SHA256: digest(packed), Size: int64(len(part.image)), Extents: extents})
		files = append(files, image.File{Path: file, Data: packed})
	}
	cfg.Progress("Making the installer")
	return m, p.write(m, base, files, installs, cfg.Installs, path)
}

// BuildReset writes the image of a stick that wipes machines. The image contains no secret and is
// the same for all owners.
func BuildReset(p *Parts, progress func(string), path string) (*install.Manifest, error) {
	if progress == nil {
		progress = func(string) {}
	}
	progress("Packing drivers and programs")
	base, err := p.base()
	if err != nil {
		return nil, err
	}
	progress("Writing the image")
	m := &install.Manifest{Version: 1, Target: Target, Kernel: p.Release, Reset: true}
	return m, p.write(m, base, nil, resets, nil, path)
}

// The method `write` writes the image of a stick with these files and menu entries to the file
// `path`. For the function `installs`, which may be nil, see Config.Installs.
func (p *Parts) write(m *install.Manifest, base []byte, files []image.File, entries []entry, installs func([]byte) error, path string) error {
	manifest, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if _, err := install.ParseManifest(manifest); err != nil {
		return err // the installer refuses a manifest with this error
	}
	boot, err := p.menu(base, digest(manifest), entries, m.Enrol, installs)
	if err != nil {
		return err
	}
	files = append(files, image.File{Path: install.ManifestPath, Data: manifest})
	return image.Disk{ESP: append(files, boot...)}.Write(path)
}

// checkFirst refuses a first revision that is not signed by a pinned key, because the installed
// system would not use it.
func (p *Parts) checkFirst(r *factory.Revision) error {
	if p.RevisionKeys == nil || r == nil {
		return nil
	}
	state, err := trail.ParseState(r.State)
	if err == nil {
		_, err = sig.Verify(state, p.RevisionKeys)
	}
	if err != nil {
		return fmt.Errorf("image: the devices would refuse the first revision: %w", err)
	}
	return nil
}

// The method `token` returns the join token. If the image has none, it returns a TokenFile in which
// only the fields about the hub are set, from the hub file.
func (c *Config) token() (*wire.TokenFile, error) {
	if len(c.Hub) == 0 || len(c.Token) > 0 {
		return wire.ParseTokenFile(c.Token)
	}
	h, err := wire.ParseHubFile(c.Hub)
	if err != nil {
		return nil, err
	}
	if c.Debug {
		return nil, errors.New("image: a shell needs a token file, because the shell's password is derived from the join token's secret")
	}
	return &wire.TokenFile{Hub: h.Hub, HubName: h.HubName, HubCA: h.HubCA}, nil
}

func (c Config) consoleLimit() access.Level {
	if c.Console == nil {
		return access.Full
	}
	return *c.Console
}

// ConsolePassword returns the password of the shell on devices whose image was built with Debug. It
// is derived from the join token's secret and has 100 bits of entropy, so a person with the token
// file can compute the password, and the same input gives the same image.
func ConsolePassword(t *wire.TokenFile) (string, error) {
	secret, err := t.Secret()
	if err != nil {
		return "", err
	}
	h := hmac.New(sha256.New, secret)
	h.Write([]byte("gangway console v1"))
	return strings.ToLower(base32.StdEncoding.EncodeToString(h.Sum(nil))[:20]), nil
}

// systemFiles returns the files that the installed system has in addition to the base system: the
// agent, the pinned keys if there are any and, if `debug` is true, a shell that asks for a
// password. The image contains only a hash of the password, from which nobody can find the
// password, because it has 100 bits of entropy.
func (p *Parts) systemFiles(token *wire.TokenFile, debug bool) ([]image.File, error) {
	files := []image.File{
		{Path: "bin/gangway-agent", Data: p.Agent, Mode: 0o755},
		{Path: install.HookPath, Data: []byte("/init"), Mode: fs.ModeSymlink},
	}
	if p.RevisionKeys != nil {
		files = append(files, image.File{Path: install.RevisionKeyPath, Data: p.RevisionKeys.PEM(), Mode: 0o644})
	}
	if !debug {
		return files, nil
	}
	password, err := ConsolePassword(token)
	if err != nil {
		return nil, err
	}
	files = append(files, p.shell()...)
	return append(files, image.File{Path: install.ConsolePath, Data: []byte(digest([]byte(password)) + "\n"), Mode: 0o600}), nil
}

// systemESP builds the installed system's EFI system partition. The boot manager tries the system
// in the first slot at most three times before it marks it as bad (systemd's Automatic Boot
// Assessment).
func (p *Parts) systemESP(base []byte, token *wire.TokenFile, cfg Config) ([]byte, error) {
	uki, err := p.system(base, token, cfg.Debug, cfg.consoleLimit())
	if err != nil {
		return nil, err
	}
	whose := image.File{Path: install.TokenPath, Data: cfg.Token}
	if len(cfg.Token) == 0 {
		whose = image.File{Path: install.HubPath, Data: cfg.Hub}
	}
	manager, err := p.signed(p.BootManager, nil)
	if err != nil {
		return nil, err
	}
	if cfg.Boots != nil {
		if err := cfg.Boots(manager, uki); err != nil {
			return nil, err
		}
	}
	return image.Disk{Label: "GANGWAY-SYS", ESPSize: espSize, ESP: []image.File{
		{Path: "EFI/BOOT/BOOTX64.EFI", Data: manager},
		{Path: "EFI/Linux/gangway-a+3.efi", Data: uki},
		{Path: slots.LoaderConf, Data: slots.Conf(slots.A)},
		{Path: install.NetworkPath, Data: install.NoNetwork()},
		{Path: install.ReportPath, Data: install.NoReport()},
		whose,
	}}.FAT()
}

// networkFile returns the file with the network settings, which a person can edit on the stick.
func networkFile(s *netfile.Settings) image.File {
	text := netfile.Template
	if s != nil && !s.Empty() {
		text = s.Text()
	}
	return image.File{Path: netfile.Name, Data: []byte(text)}
}

// networkPlace returns the offset in bytes, from the start of the installed system's EFI system
// partition, at which the installer writes the network settings.
func networkPlace(esp []byte) (int64, error) {
	at := bytes.Index(esp, install.NoNetwork())
	if at < 0 {
		return 0, errors.New("image: the installed system's network settings file is missing or fragmented")
	}
	return int64(at), nil
}

func keyFile(v secureboot.Variable) string {
	return install.KeysPath + "/" + string(v) + ".auth"
}

// menu returns the files from which the stick boots: the boot manager, its settings, and a unified
// kernel image for each menu entry.
func (p *Parts) menu(base []byte, manifest string, entries []entry, enrol *install.Enrol, installs func([]byte) error) ([]image.File, error) {
	shell, err := image.Initramfs(append(p.shell(), image.File{Path: "bin/pvf-install", Data: []byte("/init"), Mode: fs.ModeSymlink}))
	if err != nil {
		return nil, err
	}
	manager, err := p.signed(p.BootManager, nil)
	if err != nil {
		return nil, err
	}
	kernel, err := p.kernel()
	if err != nil {
		return nil, err
	}
	conf := "timeout 5\neditor no\ndefault " + entries[0].name + ".efi\n"
	switch {
	case enrol == nil:
	case enrol.Unasked:
		conf += "secure-boot-enroll force\n"
	default:
		conf += "secure-boot-enroll manual\n"
	}
	files := []image.File{
		{Path: "EFI/BOOT/BOOTX64.EFI", Data: manager},
		{Path: "loader/loader.conf", Data: []byte(conf)},
	}
	for i, e := range entries {
		initrd := base
		if e.mode == "manual" {
			initrd = image.Join(base, shell)
		}
		uki, err := p.signed(image.UKI{
			Stub: p.Stub, Kernel: kernel, Initrd: initrd,
			Cmdline:   console + "panic=30 gangway.mode=" + e.mode + " gangway.manifest=" + manifest,
			OSRelease: osRelease(e.title, fmt.Sprintf("gangway-%d", i+1), "1"),
		}.Build())
		if err != nil {
			return nil, err
		}
		if installs != nil && e.mode != "manual" { // in the manual mode, a person has a shell
			if err := installs(uki); err != nil {
				return nil, err
			}
		}
		files = append(files, image.File{Path: "EFI/Linux/" + e.name + ".efi", Data: uki})
	}
	return files, nil
}

// osRelease returns the os-release text from which the boot manager makes a menu entry: the title,
// and an id by which it sorts the entries.
func osRelease(title, id, version string) string {
	return fmt.Sprintf("ID=gangway\nIMAGE_ID=%s\nNAME=Gangway\nPRETTY_NAME=\"%s\"\nVERSION_ID=%s\n", id, title, version)
}

func digest(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

var errNotInstaller = errors.New("image: this is not a Gangway installer image: use a file that `gangway image build` wrote")
