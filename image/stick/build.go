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

	"gangway/device/install"
	"gangway/device/install/netfile"
	"gangway/device/install/slots"
	"gangway/image"
	"gangway/image/factory"
	"gangway/image/secureboot"
	"gangway/wire"
)

// Target is the image's name among those that can be built.
const Target = "x64-uefi-installer"

// Config is what an image is made for.
type Config struct {
	// Token is the join token's file, device_autojointoken.json. Empty: the
	// machines show a code, for their owner to take to Hub.
	Token []byte
	// Hub is the hub's file (join.HubFile), where there is no Token.
	Hub []byte
	// Disk is the rule by which the automatic installation chooses a disk.
	Disk install.Rule
	// Escrow is the age recipient that recovery keys are kept for.
	Escrow string
	// First is the device's first revision; nil: an empty one.
	First *factory.Revision
	// Enrol are the keys that firmware in setup mode takes from the stick; nil:
	// none. The parts must be signed by one of them.
	Enrol *secureboot.Set
	// EnrolUnasked has firmware do so with no key pressed.
	EnrolUnasked bool
	// Network are the network settings of the machines; nil: none. They can be
	// edited on the stick.
	Network *netfile.Settings
	// Debug gives the device a console with login.
	Debug bool
	// Progress, if set, is told what is being made.
	Progress func(string)
}

const (
	mib = 1 << 20
	// espSize is of the installed system: room for both slots, and more. Above
	// 260 MiB it can be on disks whose sectors have 4096 bytes too.
	espSize = 265 * mib
	// dataSize is the data partition's as it is written; the system grows it.
	dataSize = 64 * mib
)

// console has the kernel speak on the screen and on the first serial port.
const console = "console=ttyS0,115200 console=tty0 quiet loglevel=3 "

// entry is one of a stick's menu.
type entry struct{ name, title, mode string }

// installs and resets are the menus, in their order. The first is chosen by
// itself.
var installs = []entry{
	{"gangway-auto", "Install Gangway (auto)", "auto"},
	{"gangway-autotpm", "Install Gangway (auto TPM)", "tpm"},
	{"gangway-manual", "Install Gangway (manual)", "manual"},
}

var resets = []entry{{"gangway-reset", "Wipe this machine", "reset"}}

// Build makes the image file and returns what it installs. The same parts and
// configuration give the same bytes.
func Build(p *Parts, cfg Config, path string) (*install.Manifest, error) {
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	token, err := cfg.token()
	if err != nil {
		return nil, err
	}
	if cfg.Enrol != nil && (p.Signer == nil || !cfg.Enrol.Trusts(p.Signer.Leaf)) {
		return nil, errors.New("image: a machine that takes these keys would not start this image: sign it with their db key")
	}
	if cfg.Disk == "" {
		cfg.Disk = install.Largest
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
	return m, p.write(m, base, files, installs, path)
}

// BuildReset makes the image of a stick that wipes machines. It has no secret
// and no owner.
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
	return m, p.write(m, base, nil, resets, path)
}

// write makes the image of a stick with these files and this menu.
func (p *Parts) write(m *install.Manifest, base []byte, files []image.File, entries []entry, path string) error {
	manifest, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if _, err := install.ParseManifest(manifest); err != nil {
		return err // which the installer would refuse
	}
	boot, err := p.menu(base, digest(manifest), entries, m.Enrol)
	if err != nil {
		return err
	}
	files = append(files, image.File{Path: install.ManifestPath, Data: manifest})
	return image.Disk{ESP: append(files, boot...)}.Write(path)
}

// token is the join token, or what is known of one that is not there yet: its
// hub.
func (c *Config) token() (*wire.TokenFile, error) {
	if len(c.Hub) == 0 || len(c.Token) > 0 {
		return wire.ParseTokenFile(c.Token)
	}
	h, err := wire.ParseHubFile(c.Hub)
	if err != nil {
		return nil, err
	}
	if c.Debug {
		return nil, errors.New("image: the console's password follows from the join token's secret: there is no console without a token file")
	}
	return &wire.TokenFile{Hub: h.Hub, HubName: h.HubName, HubCA: h.HubCA}, nil
}

// ConsolePassword is the console's, of devices whose image was made with Debug:
// 100 bits that follow from the join token's secret, so that who has the
// token's file has it, and the same input gives the same image.
func ConsolePassword(t *wire.TokenFile) (string, error) {
	secret, err := t.Secret()
	if err != nil {
		return "", err
	}
	h := hmac.New(sha256.New, secret)
	h.Write([]byte("gangway console v1"))
	return strings.ToLower(base32.StdEncoding.EncodeToString(h.Sum(nil))[:20]), nil
}

// systemFiles are what the system has besides the base: the agent and, for
// debugging, a shell behind a password. The image has the password's hash; 100
// bits are not guessed.
func (p *Parts) systemFiles(token *wire.TokenFile, debug bool) ([]image.File, error) {
	files := []image.File{
		{Path: "bin/gangway-agent", Data: p.Agent, Mode: 0o755},
		{Path: install.HookPath, Data: []byte("/init"), Mode: fs.ModeSymlink},
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

// systemESP is the installed system's EFI system partition. The first slot is
// tried three times before it counts as bad (systemd's Automatic Boot
// Assessment).
func (p *Parts) systemESP(base []byte, token *wire.TokenFile, cfg Config) ([]byte, error) {
	uki, err := p.system(base, token, cfg.Debug)
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
	return image.Disk{Label: "GANGWAY-SYS", ESPSize: espSize, ESP: []image.File{
		{Path: "EFI/BOOT/BOOTX64.EFI", Data: manager},
		{Path: "EFI/Linux/gangway-a+3.efi", Data: uki},
		{Path: slots.LoaderConf, Data: slots.Conf(slots.A)},
		{Path: install.NetworkPath, Data: install.NoNetwork()},
		whose,
	}}.FAT()
}

// networkFile is what a person edits on the stick.
func networkFile(s *netfile.Settings) image.File {
	text := netfile.Template
	if s != nil && !s.Empty() {
		text = s.Text()
	}
	return image.File{Path: netfile.Name, Data: []byte(text)}
}

// networkPlace finds where the installer writes the settings, in the installed
// system's EFI system partition.
func networkPlace(esp []byte) (int64, error) {
	at := bytes.Index(esp, install.NoNetwork())
	if at < 0 {
		return 0, errors.New("image: the file for network settings is in pieces, or has been lost")
	}
	return int64(at), nil
}

func keyFile(v secureboot.Variable) string {
	return install.KeysPath + "/" + string(v) + ".auth"
}

// menu is what the stick starts with.
func (p *Parts) menu(base []byte, manifest string, entries []entry, enrol *install.Enrol) ([]image.File, error) {
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
		files = append(files, image.File{Path: "EFI/Linux/" + e.name + ".efi", Data: uki})
	}
	return files, nil
}

// osRelease is what the boot manager makes a menu entry of: the title, and
// what it sorts by.
func osRelease(title, id, version string) string {
	return fmt.Sprintf("ID=gangway\nIMAGE_ID=%s\nNAME=Gangway\nPRETTY_NAME=\"%s\"\nVERSION_ID=%s\n", id, title, version)
}

func digest(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

var errNoInstaller = errors.New("image: this is no installer image of Gangway")
