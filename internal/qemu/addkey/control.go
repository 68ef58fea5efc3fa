package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"gangway/internal/carry"

	"golang.org/x/sys/unix"
)

// The control disk is the control of the experiment: a LUKS2 volume in a file, which Debian's
// programs bind to PCR 7, and which nothing binds again when PCR 7 changes.
const (
	programs = "/control" // where the programs and their libraries are
	volume   = "/data/control.img"
)

// enrolControl binds the control disk to the present value of PCR 7.
func enrolControl(files *carry.Files) error {
	if err := prepareControl(files); err != nil {
		return err
	}
	fresh, err := os.ReadFile(programs + "/volume.img")
	if err != nil {
		return err
	}
	if err := os.WriteFile(volume, fresh, 0o600); err != nil {
		return err
	}
	out, err := debian("PASSWORD=control", "systemd-cryptenroll", "--tpm2-device=/dev/tpmrm0", "--tpm2-pcrs=7", volume)
	if err != nil {
		return fmt.Errorf("enrol the control disk: %w: %s", err, out)
	}
	fmt.Println("addkey: the control disk is bound to PCR 7")
	return nil
}

// openControl prints whether the TPM opens the control disk.
func openControl(files *carry.Files) error {
	if err := prepareControl(files); err != nil {
		return err
	}
	out, err := debian("TSS2_LOG=all+ERROR", "cryptsetup", "open", "--test-passphrase", "--token-only", "--token-type", "systemd-tpm2", volume)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	if err == nil {
		fmt.Println("addkey: the control disk opens")
	} else {
		fmt.Printf("addkey: the control disk does not open: %v: %s\n", err, out)
	}
	return nil
}

// debian runs one of Debian's programs, and returns its output in one line.
func debian(variable, program string, args ...string) (string, error) {
	c := exec.Command("/bin/"+program, args...)
	c.Env = []string{"PATH=/bin", variable}
	c.Dir, c.SysProcAttr = "/", &syscall.SysProcAttr{Chroot: programs}
	out, err := c.CombinedOutput()
	return strings.Join(strings.Fields(string(out)), " "), err
}

// prepareControl unpacks the programs, and mounts the file systems that they need into their
// folder. If the agent was restarted, the programs and the mounts already exist.
func prepareControl(files *carry.Files) error {
	if _, err := os.Stat(programs); err == nil {
		return nil
	}
	from, err := files.Open("control.tar")
	if err != nil {
		return err
	}
	defer from.Close()
	for r := tar.NewReader(from); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		path := filepath.Join(programs, h.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		var b bytes.Buffer
		if _, err := io.Copy(&b, r); err != nil {
			return err
		}
		if err := os.WriteFile(path, b.Bytes(), 0o755); err != nil {
			return err
		}
	}
	for _, dir := range []string{"dev", "proc", "sys", "data", "run", "tmp"} {
		if err := os.MkdirAll(filepath.Join(programs, dir), 0o755); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/dev", "/proc", "/sys", "/data"} {
		if err := unix.Mount(dir, programs+dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	return nil
}
