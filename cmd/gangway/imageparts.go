package main

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"gangway/image/stick"
	"gangway/internal/carry"

	"github.com/spf13/cobra"
)

// imagePrograms are the programs that go into images.
var imagePrograms = []string{"gangway-init", "gangway-agent"}

// programsFolder returns the folder of gangway-init and gangway-agent. The argument `self` is the
// path of this program. `make build` writes all three programs to one folder. A package installs
// gangway-init and gangway-agent to lib/gangway next to the folder of this program. If neither
// folder has them, programsFolder unpacks this program's embedded copies to the cache folder.
func programsFolder(self string) string {
	own := filepath.Dir(self)
	installed := filepath.Join(filepath.Dir(own), "lib/gangway")
	switch {
	case exists(filepath.Join(own, imagePrograms[0])):
		return own
	case exists(filepath.Join(installed, imagePrograms[0])):
		return installed
	}
	if dir, err := os.UserCacheDir(); err == nil {
		if unpacked, err := unpack(self, filepath.Join(dir, "gangway")); err == nil {
			return unpacked
		}
	}
	if exists(installed) {
		return installed
	}
	return own
}

// unpack writes the programs that are embedded in the file `program` to a folder below `dir`, and
// returns the new folder. The folder's name is a hash of the programs. Files that exist there
// already must have the same content.
func unpack(program, dir string) (string, error) {
	carried, err := carry.Open(program)
	if err != nil {
		return "", err
	}
	defer carried.Close()
	content := map[string][]byte{}
	sum := sha256.New()
	for _, name := range imagePrograms {
		if content[name], err = fs.ReadFile(carried, name); err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s %x\n", name, sha256.Sum256(content[name]))
	}
	dir = filepath.Join(dir, fmt.Sprintf("programs-%x", sum.Sum(nil)[:8]))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	for name, b := range content {
		path := filepath.Join(dir, name)
		if there, err := os.ReadFile(path); err == nil && bytes.Equal(there, b) {
			continue
		}
		if err := writePrivate(path, b); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// kernelFolder returns the folder with the files that `gangway image fetch` has downloaded: the
// cache folder of the user, or the folder lib/gangway/kernel of the installation.
func kernelFolder() (string, error) {
	var places []string
	if dir, err := cacheDir(); err == nil {
		places = append(places, dir)
	}
	if self, err := os.Executable(); err == nil {
		places = append(places, filepath.Join(filepath.Dir(filepath.Dir(self)), "lib/gangway/kernel"))
	}
	for _, dir := range places {
		if exists(filepath.Join(dir, "vmlinuz")) {
			return dir, nil
		}
	}
	if len(places) == 0 {
		return "", errors.New("no kernel found, because the user has no home folder; name the kernel's folder with --kernel")
	}
	return places[0], fmt.Errorf("no kernel found in %s: run `gangway image fetch`, or name a folder with --kernel", strings.Join(places, " or "))
}

// partView is a part that images need, with the path where the command found it.
type partView struct {
	Part   string `json:"part"`
	Found  bool   `json:"found"`
	Needed bool   `json:"needed"`           // every image needs this part
	Where  string `json:"where,omitempty"`  // a path
	Detail string `json:"detail,omitempty"` // the version, or the error
	Get    string `json:"get,omitempty"`    // the command that gets the part
}

var partColumns = []column[partView]{
	{name: "part", cell: func(p partView) string { return p.Part }, whole: true},
	{name: "state", whole: true, cell: func(p partView) string {
		switch {
		case p.Found && p.Get != "":
			return "unfit"
		case p.Found:
			return "there"
		case p.Needed:
			return "missing"
		}
		return "missing (optional)"
	}, tone: func(p partView) tone {
		switch {
		case p.Found && p.Get == "":
			return good
		case p.Needed:
			return bad
		}
		return attention
	}},
	{name: "where", cell: func(p partView) string { return strings.TrimSpace(p.Where + "  " + p.Detail) }},
	{name: "get", cell: func(p partView) string { return p.Get }},
}

var errPartsMissing = errors.New("parts are missing: the column GET has the commands that get them")

func (a *app) imageParts() *cobra.Command {
	var o imageOptions
	c := &cobra.Command{
		Use: "parts", Short: "Show which parts of images are installed, and how to get the others", Args: args(),
		Long: `Parts lists what 'gangway image build' puts into images, and the programs that it runs:
where each is, and how to get one that is missing. The exit code is 1 if a part that
every image needs is missing.

A gangway program from 'make build' or 'make install' contains gangway-init and
gangway-agent, so this one file is enough on another machine. 'gangway image fetch' gets
the kernel from Debian. To get the kernel for all users, run 'fetch' as root with --dir
PREFIX/lib/gangway/kernel.`,
		Example: "  gangway image parts\n  gangway image parts --output json",
		RunE: func(*cobra.Command, []string) error {
			parts, err := o.list()
			if err != nil {
				return err
			}
			if err := printList(a, parts, partColumns, ""); err != nil {
				return err
			}
			for _, p := range parts {
				if p.Needed && (!p.Found || p.Get != "") {
					return errPartsMissing
				}
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&o.kernel, "kernel", "", "folder with vmlinuz, modules/ and busybox (default: the folder that 'gangway image fetch' uses without --dir, or ../lib/gangway/kernel)")
	f.StringVar(&o.boot, "boot", "", "folder of systemd's EFI programs (default: Debian's, /usr/lib/systemd/boot/efi)")
	f.StringVar(&o.programs, "programs", "", "folder of gangway-init and gangway-agent (default: this program's folder, ../lib/gangway, or the programs embedded in this program)")
	return a.table(c, columnNames(partColumns)...)
}

// list searches for the parts in the folders that 'gangway image build' uses.
func (o *imageOptions) list() (parts []partView, err error) {
	if o.kernel == "" {
		o.kernel, _ = kernelFolder() // if there is no folder, the parts are listed as missing
	}
	if o.programs == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		o.programs = programsFolder(self)
	}
	const fetch = "gangway image fetch (on Debian)"
	efi := o.boot
	if efi == "" {
		efi = stick.BootDir
	}
	add := func(name, path, get string) {
		p := partView{Part: name, Needed: true, Where: path, Get: get}
		if _, err := os.Stat(path); err == nil {
			p.Found, p.Get = true, ""
		}
		parts = append(parts, p)
	}
	add("kernel", filepath.Join(o.kernel, "vmlinuz"), fetch)
	if b, err := os.ReadFile(filepath.Join(o.kernel, "package")); err == nil {
		parts[0].Detail = strings.TrimSpace(string(b))
	}
	add("modules", filepath.Join(o.kernel, "modules"), fetch)
	add("busybox", filepath.Join(o.kernel, "busybox"), fetch)
	add("EFI stub", filepath.Join(efi, "linuxx64.efi.stub"), "apt-get install systemd-boot-efi")
	add("boot manager", filepath.Join(efi, "systemd-bootx64.efi"), "apt-get install systemd-boot-efi")
	for _, name := range imagePrograms {
		add(name, filepath.Join(o.programs, name), "make build, or the package gangway")
		judgeProgram(&parts[len(parts)-1])
	}
	for _, t := range []struct {
		name, get string
		needed    bool
	}{
		{"mke2fs", "apt-get install e2fsprogs", true},
		{"debugfs", "apt-get install e2fsprogs", true},
		{"osslsigncode", "apt-get install osslsigncode (to sign for Secure Boot)", false},
	} {
		p := partView{Part: t.name, Needed: t.needed, Get: t.get}
		if path, err := exec.LookPath(t.name); err == nil {
			p.Found, p.Where, p.Get = true, path, ""
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// judgeProgram checks that a program can run in an image: it must be for x86-64, and statically
// linked, because images have no libraries.
func judgeProgram(p *partView) {
	if !p.Found {
		return
	}
	f, err := elf.Open(p.Where)
	if err != nil {
		p.Detail, p.Get = "it is not a program for Linux", "make build"
		return
	}
	defer f.Close()
	if f.Machine != elf.EM_X86_64 {
		p.Detail, p.Get = "the program is for another processor; images are for x86-64", "GOARCH=amd64 make build; then give the folder of the programs with --programs"
		return
	}
	for _, s := range f.Progs {
		if s.Type == elf.PT_INTERP {
			p.Detail, p.Get = "the program needs shared libraries, which images do not have", "CGO_ENABLED=0 make build"
		}
	}
}
