package installer

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"gangway/device/install"
	"gangway/device/machine"
	"gangway/device/screen"
)

const pvfUsage = `pvf-install installs Gangway from the stick to a disk, and erases the disk.

  pvf-install                            shows the disks and asks
  pvf-install --list                     shows the disks
  pvf-install --disk /dev/nvme0n1 --yes  asks nothing
  pvf-install --encrypt                  encrypts the data partition; the key is in the TPM

Exit codes: 0 done, 1 it did not work, 2 wrong usage.
`

// Command is the command pvf-install.
func Command(args []string) int {
	f := flag.NewFlagSet("pvf-install", flag.ContinueOnError)
	f.SetOutput(os.Stderr)
	f.Usage = func() { fmt.Fprint(os.Stderr, pvfUsage) }
	disk := f.String("disk", "", "the disk")
	encrypt := f.Bool("encrypt", false, "encrypt the data partition, with the key in the TPM")
	yes := f.Bool("yes", false, "do not ask")
	list := f.Bool("list", false, "list the disks")
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil || f.NArg() > 0 || *yes && *disk == "" {
		fmt.Fprint(os.Stderr, pvfUsage)
		return 2
	}
	p := prompt{in: bufio.NewReader(os.Stdin), out: os.Stdout}
	if err := p.install(*disk, *yes, *list, *encrypt); err != nil {
		fmt.Fprintf(os.Stderr, "pvf-install: %v\n", err)
		return 1
	}
	return 0
}

// prompt is the person at the console.
type prompt struct {
	in  *bufio.Reader
	out io.Writer
}

func (p prompt) printf(format string, args ...any) { fmt.Fprintf(p.out, format, args...) }

func (p prompt) line() (string, error) {
	s, err := p.in.ReadString('\n')
	if err != nil {
		return "", errors.New("nothing was typed: nothing is erased")
	}
	return strings.TrimSpace(s), nil
}

func (p prompt) install(name string, yes, list, encrypt bool) error {
	want := machine.CommandLine()["gangway.manifest"]
	m, err := readManifest(want)
	if err != nil { // the stick was not there when this started, or was changed
		s, err := findStick(want, 0)
		if err != nil {
			return err
		}
		m = s.manifest
	}
	s := &stick{disk: mountedFrom(stickDir), manifest: m, sha256: want}
	if err := s.readNetwork(); err != nil {
		return err
	}
	disks, err := install.Disks(machine.SysBlock, "/dev", s.known()...)
	if err != nil {
		return err
	}
	if list || name == "" {
		p.show(disks)
	}
	if list {
		return nil
	}
	d, err := p.choose(disks, name)
	if err != nil {
		return err
	}
	if !yes {
		p.printf("\nEverything on %s will be erased: %s.\nType the disk's name, %s, to go on: ", d, d.Content, d.Name)
		answer, err := p.line()
		if err != nil {
			return err
		}
		if answer != d.Name {
			return fmt.Errorf("that is not %s: nothing was erased", d.Name)
		}
	}
	if wrong := machine.HasTPM(); wrong != "" {
		return errors.New(wrong)
	}
	var keys *diskKeys
	if encrypt {
		if keys, err = newDiskKeys(s.manifest.Escrow); err != nil {
			return err
		}
	}
	return p.erase(s, d, keys)
}

func (p prompt) show(disks []install.Disk) {
	for _, d := range disks {
		p.printf("%-12s %10s  %-24s %-20s %s\n", d.Name, install.Size(d.Size), screen.Cut(d.Model, 24), screen.Cut(d.Serial, 20), d.Content)
		switch {
		case d.Unfit != "":
			p.printf("%-12s %10s  not to be installed to: %s\n", "", "", d.Unfit)
		case d.External != "":
			p.printf("%-12s %10s  only if you name it: %s\n", "", "", d.External)
		}
	}
}

// choose finds the disk of a name, and asks for one where there is none.
func (p prompt) choose(disks []install.Disk, name string) (*install.Disk, error) {
	if name == "" {
		p.printf("\nWhich disk? ")
		var err error
		if name, err = p.line(); err != nil {
			return nil, err
		}
	}
	name = strings.TrimPrefix(name, "/dev/")
	for _, d := range disks {
		switch {
		case d.Name != name:
		case d.Unfit != "":
			return nil, fmt.Errorf("%s is not installed to: %s", d.Path(), d.Unfit)
		default:
			return &d, nil
		}
	}
	return nil, fmt.Errorf("there is no disk %q: pvf-install --list shows them", name)
}

func (p prompt) erase(s *stick, d *install.Disk, keys *diskKeys) error {
	last := install.Stage("")
	err := erase(s, d, keys, func(stage install.Stage, done, total int64) {
		if stage != last && last != "" {
			p.printf("\n")
		}
		last = stage
		p.printf("\r%-10s %3d%%", stage, done*100/max(total, 1))
	})
	p.printf("\n")
	if err != nil {
		return fmt.Errorf("%w\nThe stick can be started again, as often as need be", err)
	}
	i, err := install.Look("/dev", d.Name)
	if err != nil {
		return err
	}
	if err := machine.Firmware.Start(i); err != nil {
		p.printf("%v\nChoose the disk in the firmware's boot menu.\n", err)
	}
	if keys != nil {
		p.printf("Recovery key, shown this once: %s\n", keys.recovery)
	}
	p.printf("Installed to %s. Type reboot; the stick may be taken out.\n", d.Path())
	return nil
}

// mountedFrom is the disk that is mounted at a folder, empty if none is.
func mountedFrom(dir string) string {
	b, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return ""
	}
	for l := range strings.Lines(string(b)) {
		if f := strings.Fields(l); len(f) > 1 && f[1] == dir {
			return machine.DiskOf(strings.TrimPrefix(f[0], "/dev/"))
		}
	}
	return ""
}
