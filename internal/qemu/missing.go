package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// The emulator, and the paths of the firmware in Debian's packages.
const (
	program  = "qemu-system-x86_64"
	codePath = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	varsPath = "/usr/share/OVMF/OVMF_VARS_4M.fd"
	// signedCodePath is the path of firmware that enforces Secure Boot.
	signedCodePath = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
	// StubPath is the path of systemd's stub for unified kernel images.
	StubPath = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
)

// Missing returns one sentence that names the missing programs and how to install them, or "" if
// nothing is missing. For software TPMs, see swtpm.Missing.
func Missing() string {
	return missing(required{codePath, "ovmf"}, required{signedCodePath, "ovmf"}, required{StubPath, "systemd-boot-efi"})
}

// required is a file that must exist, and the Debian package that has it.
type required struct{ path, deb string }

// The function `missing` checks whether QEMU and the files `files` exist. It returns one sentence
// that names each missing program or file and its package, or "" if nothing is missing.
func missing(files ...required) string {
	var names, debs []string
	miss := func(name, deb string) {
		names = append(names, name)
		if !slices.Contains(debs, deb) {
			debs = append(debs, deb)
		}
	}
	if _, err := exec.LookPath(program); err != nil {
		miss(program, "qemu-system-x86")
	}
	for _, f := range files {
		if _, err := os.Stat(f.path); err != nil {
			miss(f.path, f.deb)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("emulated machines need %s: install them with `apt-get install %s`, or with your system's package manager",
		strings.Join(names, ", "), strings.Join(debs, " "))
}

// KernelDir returns the folder with vmlinuz and modules/ that scripts/kernel.sh made. The
// environment variable GANGWAY_KERNEL overrides the folder.
func KernelDir() (string, error) {
	return unpacked("GANGWAY_KERNEL", "kernel", "scripts/kernel.sh")
}

// InstallerKernelDir returns the folder with the kernel for installer images that `gangway image
// fetch` made. The environment variable GANGWAY_INSTALLER_KERNEL overrides the folder.
func InstallerKernelDir() (string, error) {
	return unpacked("GANGWAY_INSTALLER_KERNEL", "installer-kernel", "scripts/install.sh")
}

func unpacked(env, name, script string) (string, error) {
	if dir := os.Getenv(env); dir != "" {
		return dir, nil
	}
	at, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			break
		}
		if at == filepath.Dir(at) {
			return "", errors.New("qemu: the working directory is not inside the source tree")
		}
	}
	dir := filepath.Join(at, "build", name)
	if _, err := os.Stat(filepath.Join(dir, "vmlinuz")); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is no kernel for emulated machines in build/%s: run %s", name, script)
	}
	return dir, nil
}
