package installer

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"gangway/device/install"
	"gangway/device/screen"
	"gangway/internal/finding"
)

const usage = `pvf-install installs Gangway from the stick to a disk. It erases the disk.

  pvf-install                            list the disks and ask for one
  pvf-install --list                     list the disks
  pvf-install --disk /dev/nvme0n1 --yes  install without a question
  pvf-install --encrypt                  encrypt the data partition, with the key in the TPM

Exit codes: 0 done, 1 failed, 2 wrong usage.
`

// Command is pvf-install, the command with which a person installs from a shell.
type Command struct {
	*Installer  // its field Screen is the terminal on which the command runs
	In          io.Reader
	Out, ErrOut io.Writer

	in *bufio.Reader
}

// Run runs the command and returns its exit code.
func (c *Command) Run(args []string) int {
	f := flag.NewFlagSet("pvf-install", flag.ContinueOnError)
	f.SetOutput(c.ErrOut)
	f.Usage = func() { fmt.Fprint(c.ErrOut, usage) }
	disk := f.String("disk", "", "the disk to install to")
	encrypt := f.Bool("encrypt", false, "encrypt the data partition, with the key in the TPM")
	yes := f.Bool("yes", false, "do not ask")
	list := f.Bool("list", false, "list the disks")
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil || f.NArg() > 0 || *yes && *disk == "" {
		fmt.Fprint(c.ErrOut, usage)
		return 2
	}
	c.in = bufio.NewReader(c.In)
	if err := c.run(*disk, *yes, *list, *encrypt); err != nil {
		fmt.Fprintf(c.ErrOut, "pvf-install: %v\n", err)
		return 1
	}
	return 0
}

func (c *Command) printf(format string, args ...any) { fmt.Fprintf(c.Out, format, args...) }

// The method `line` reads a line that a person types.
func (c *Command) line() (string, error) {
	s, err := c.in.ReadString('\n')
	if err != nil {
		return "", errors.New("no answer was typed, so nothing was erased; run pvf-install again")
	}
	return strings.TrimSpace(s), nil
}

func (c *Command) run(name string, yes, list, encrypt bool) error {
	s, err := c.Sticks.Mounted(c.Manifest)
	if err != nil { // the stick is not mounted yet, because a person plugged it in later or replaced it
		if s, err = c.Sticks.Find(c.Manifest, 0); err != nil {
			return err
		}
	}
	if err := c.readNetwork(s); err != nil {
		return err
	}
	disks, err := c.Disks.List(c.Sticks.Marks(s)...)
	if err != nil {
		return err
	}
	if list || name == "" {
		c.list(disks)
	}
	if list {
		return nil
	}
	findings := c.Machine.Examine()
	if err := finding.Write(c.Out, findings, nil); err != nil {
		return err
	}
	if err := contradiction(findings, encrypt); err != nil {
		return err
	}
	d, err := c.choose(disks, name)
	if err != nil {
		return err
	}
	if !yes {
		if err := c.confirm(d); err != nil {
			return err
		}
	}
	if err := c.TPM.Check(); err != nil {
		return err
	}
	var keys *Keys
	if encrypt {
		if keys, err = c.TPM.NewKeys(s.Manifest); err != nil {
			return err
		}
	}
	return c.erase(s, d, keys)
}

func (c *Command) list(disks []install.Disk) {
	for _, d := range disks {
		c.printf("%-12s %10s  %-24s %-20s %s\n", d.Name, install.Size(d.Size), screen.Cut(d.Model, 24), screen.Cut(d.Serial, 20), d.Content)
		switch {
		case d.Unfit != "":
			c.printf("%-12s %10s  cannot be installed to: %s\n", "", "", d.Unfit)
		case d.External != "":
			c.printf("%-12s %10s  used only if you name it: %s\n", "", "", d.External)
		}
	}
}

// choose returns the disk with the name `name`. If `name` is empty, choose asks the person for a
// disk's name.
func (c *Command) choose(disks []install.Disk, name string) (*install.Disk, error) {
	if name == "" {
		c.printf("\nWhich disk? ")
		var err error
		if name, err = c.line(); err != nil {
			return nil, err
		}
	}
	name = diskName(name)
	for _, d := range disks {
		switch {
		case d.Name != name:
		case d.Unfit != "":
			return nil, fmt.Errorf("%s cannot be installed to: %s", d.Path(), d.Unfit)
		default:
			return &d, nil
		}
	}
	return nil, fmt.Errorf("disk %q not found; list the disks with pvf-install --list", name)
}

// confirm asks the person to type the disk's name. It returns an error if the person types anything
// else.
func (c *Command) confirm(d *install.Disk) error {
	c.printf("\nEverything on %s will be erased: %s.\nType the disk's name, %s, to go on: ", d, d.Content, d.Name)
	answer, err := c.line()
	if err != nil {
		return err
	}
	if answer != d.Name {
		return fmt.Errorf("the typed text is not %s, so nothing was erased; run pvf-install again", d.Name)
	}
	return nil
}

func (c *Command) erase(s *Stick, d *install.Disk, keys *Keys) error {
	last := install.Stage("")
	err := c.Disks.Install(s, d, keys.slots(), func(stage install.Stage, done, total int64) {
		if stage != last && last != "" {
			c.printf("\n")
		}
		last = stage
		c.printf("\r%-10s %3d%%", stage, done*100/max(total, 1))
	})
	c.printf("\n")
	if err != nil {
		return fmt.Errorf("%w\nrun pvf-install again to retry", err)
	}
	system, err := c.Disks.System(*d)
	if err != nil {
		return err
	}
	if err := c.Firmware.Start(system); err != nil {
		c.printf("%v\nChoose the disk in the firmware's boot menu.\n", err)
	}
	if keys != nil {
		c.printf("Recovery key, shown only once: %s\n", keys.Recovery)
	}
	c.printf("Installed to %s. Type reboot; you may take the stick out.\n", d.Path())
	return nil
}
