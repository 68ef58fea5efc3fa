package stick

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"gangway/image"
)

// Fetch downloads Debian's kernel and busybox with apt-get. It replaces all files in the folder
// `dir` with the files that images need:
//
//	vmlinuz, modules/, busybox, package, wanted
//
// Fetch returns the file name of the kernel's package. If the folder already has all modules that
// this version of Gangway needs, and `update` is false, Fetch downloads nothing.
func Fetch(ctx context.Context, dir string, update bool) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("image: %w", err)
	}
	wanted := strings.Join(Modules, "\n") + "\n"
	if b, err := os.ReadFile(filepath.Join(dir, "wanted")); err == nil && string(b) == wanted && !update {
		b, err := os.ReadFile(filepath.Join(dir, "package"))
		return firstLine(b), err
	}
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", fmt.Errorf("image: %w", err)
	}
	work, err := os.MkdirTemp(parent, "fetch")
	if err != nil {
		return "", fmt.Errorf("image: %w", err)
	}
	defer os.RemoveAll(work)
	out, err := run(ctx, work, "apt-cache", "depends", "--important", "linux-image-amd64")
	if err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(out, "Depends: linux-image-")
	version, _, _ := strings.Cut(rest, "\n")
	if version == "" {
		return "", errors.New("image: apt-cache does not know linux-image-amd64: run apt-get update")
	}
	if _, err := run(ctx, work, "apt-get", "download", "-qq", "linux-image-"+version, "busybox-static"); err != nil {
		return "", fmt.Errorf("%w; try again after apt-get update", err)
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil {
		return "", fmt.Errorf("image: %w", err)
	}
	release := ""
	for _, deb := range debs {
		if _, err := run(ctx, work, "dpkg-deb", "-x", deb, "x"); err != nil {
			return "", err
		}
		if strings.HasPrefix(filepath.Base(deb), "linux-image-") {
			release = filepath.Base(deb)
		}
	}
	if err := keep(filepath.Join(work, "x"), version, filepath.Join(work, "new")); err != nil {
		return "", err
	}
	for name, text := range map[string]string{"package": release + "\n", "wanted": wanted} {
		if err := os.WriteFile(filepath.Join(work, "new", name), []byte(text), 0o644); err != nil {
			return "", fmt.Errorf("image: %w", err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("image: %w", err)
	}
	if err := os.Rename(filepath.Join(work, "new"), dir); err != nil {
		return "", fmt.Errorf("image: %w", err)
	}
	return release, nil
}

// The function `keep` copies the files that images need from the folder `from`, which contains the
// unpacked packages, to the folder `to`. The modules of the kernel package take 400 MB, so `keep`
// copies only those in the list Modules and the modules on which these depend.
func keep(from, version, to string) error {
	tree := os.DirFS(filepath.Join(from, "lib/modules", version))
	modules, err := image.Modules(tree, Modules...)
	if err != nil {
		return err
	}
	builtin, err := fs.ReadFile(tree, "modules.builtin")
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	files := []image.File{{Path: "modules/modules.builtin", Data: builtin}}
	for _, m := range modules {
		if name, ok := strings.CutSuffix(filepath.Base(m.Path), ".ko"); ok {
			files = append(files, image.File{Path: "modules/" + name + ".ko", Data: m.Data})
		}
	}
	for name, path := range map[string]string{"vmlinuz": "boot/vmlinuz-" + version, "busybox": "bin/busybox"} {
		b, err := os.ReadFile(filepath.Join(from, path))
		if err != nil {
			return fmt.Errorf("image: %w", err)
		}
		files = append(files, image.File{Path: name, Data: b})
	}
	for _, f := range files {
		name := filepath.Join(to, f.Path)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return fmt.Errorf("image: %w", err)
		}
		if err := os.WriteFile(name, f.Data, 0o644); err != nil {
			return fmt.Errorf("image: %w", err)
		}
	}
	return nil
}

func run(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("image: %s: %w: %s", name, err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}
