// Command record makes the terminal recording in docs/recordings, which shows how a person builds
// an installer image with a hub. The command runs the real programs in a temporary folder against a
// real hub, and records their output with the times. scripts/record.sh calls it.
//
//	record PROGRAMS KERNEL OUT
//
// PROGRAMS is the folder of gangway and the device's programs. KERNEL is the folder that `gangway
// image fetch` made. OUT is the recording's file.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"gangway/internal/cast"
	"gangway/internal/process"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: record PROGRAMS KERNEL OUT")
		os.Exit(2)
	}
	if err := record(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintf(os.Stderr, "record: %v\n", err)
		os.Exit(1)
	}
}

func record(programs, kernel, out string) error {
	dir, err := os.MkdirTemp("", "gangway")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if programs, err = filepath.Abs(programs); err != nil {
		return err
	}
	if kernel, err = filepath.Abs(kernel); err != nil {
		return err
	}
	// Copy the kernel to the folder where `image fetch` would put it.
	cache := filepath.Join(dir, ".cache", "gangway")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return err
	}
	if err := os.CopyFS(filepath.Join(cache, "kernel"), os.DirFS(kernel)); err != nil {
		return err
	}
	s := cast.NewShell(dir, "Gangway: a stick for zero-touch onboarding", 120)
	s.Env = []string{"PATH=" + programs + ":/usr/bin:/bin:/usr/sbin:/sbin", "HOME=" + dir, "TMPDIR=" + dir, "LC_ALL=C.UTF-8"}
	const address = "127.0.0.1:12443"
	s.Type("gangway serve --data hub --listen " + address + " &")
	hub := exec.Command(filepath.Join(programs, "gangway"), "serve", "--data", "hub", "--listen", address)
	hub.Dir, hub.Env = dir, s.Env
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	hub.Stdout, hub.Stderr = w, io.Discard // the recording does not include the hub's log
	serving, err := process.Start(hub)
	w.Close()
	if err != nil {
		return err
	}
	defer func() { serving.Stop(0); <-serving.Done() }()
	go s.Show(r)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(end) {
			return fmt.Errorf("the hub did not listen on %s within 30 s: %w", address, err)
		}
	}
	time.Sleep(300 * time.Millisecond) // so that the hub's first messages come before the next command
	const password = "correct horse battery\n"
	for _, c := range []struct{ line, input string }{
		{"gangway account create --data hub --nick ada --password-stdin < password", ""},
		{"gangway login https://" + address + " --data hub --nick ada --password-stdin < password", ""},
		{"gangway token create -o device_autojointoken.json", ""},
		{"gangway image fetch", ""},
		{"gangway image build x64-uefi-installer --token-file device_autojointoken.json -o installer.img", ""},
		{"gangway image inspect installer.img", ""},
		{"gangway device ls", ""},
	} {
		if err := os.WriteFile(filepath.Join(dir, "password"), []byte(password), 0o600); err != nil {
			return err
		}
		if err := s.Run(c.line, c.input); err != nil {
			return fmt.Errorf("%w: %s", err, s.Text())
		}
	}
	return s.Save(out)
}
