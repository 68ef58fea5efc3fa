package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// writeArchives writes one archive for each architecture, for systems that do not use Debian
// packages: programs, systemd units, man pages and completions.
func (r *release) writeArchives(context.Context) error {
	for _, arch := range r.archs {
		if err := r.writeArchive(arch); err != nil {
			return fmt.Errorf("%s: %w", arch, err)
		}
	}
	return nil
}

func (r *release) writeArchive(arch string) error {
	top := fmt.Sprintf("gangway-%s-linux-%s", r.version, arch)
	files := []file{
		{source: filepath.Join(r.root, "LICENSE"), path: "/LICENSE", mode: 0o644},
		{source: r.program(arch, "gangway"), path: "/bin/gangway", mode: 0o755},
		{source: r.program(arch, "gangway-agent"), path: "/bin/gangway-agent", mode: 0o755},
		// `gangway image build` copies these two programs into installer images.
		{source: r.program(imageTarget, "gangway-agent"), path: "/lib/gangway/gangway-agent", mode: 0o755},
		{source: r.program(imageTarget, "gangway-init"), path: "/lib/gangway/gangway-init", mode: 0o755},
	}
	units, err := filepath.Glob(r.contrib("*.service"))
	if err != nil {
		return err
	}
	for _, unit := range units {
		files = append(files, file{source: unit, path: "/lib/systemd/system/" + filepath.Base(unit), mode: 0o644})
	}
	for _, name := range []string{"gangway", "gangway-agent"} {
		share, err := tree(r.share(name), "/share")
		if err != nil {
			return err
		}
		files = append(files, share...)
	}
	out, err := os.Create(filepath.Join(r.out, top+".tar.gz"))
	if err != nil {
		return err
	}
	z, err := gzip.NewWriterLevel(out, gzip.BestCompression)
	if err != nil {
		return err
	}
	w := newTar(z, r.date)
	for _, f := range files {
		if err := w.file(top+f.path, f.source, f.mode); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), z.Close(), out.Close())
}

// reproducibleTar writes an archive that depends only on the names, modes and contents of its
// files.
type reproducibleTar struct {
	*tar.Writer
	date    time.Time
	folders map[string]bool
}

func newTar(w io.Writer, date time.Time) *reproducibleTar {
	return &reproducibleTar{tar.NewWriter(w), date, map[string]bool{}}
}

// file adds a file with the content of the file `source`. It first adds the missing parent folders
// of the file.
func (t *reproducibleTar) file(name, source string, mode os.FileMode) error {
	b, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	return t.bytes(name, b, mode)
}

func (t *reproducibleTar) bytes(name string, content []byte, mode os.FileMode) error {
	if err := t.above(name); err != nil {
		return err
	}
	err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: int64(mode), ModTime: t.date, Format: tar.FormatPAX})
	if err != nil {
		return err
	}
	_, err = io.Copy(t, bytes.NewReader(content))
	return err
}

// folder adds a folder that belongs to the user with this id. It first adds the missing parent
// folders.
func (t *reproducibleTar) folder(name string, mode int64, user int) error {
	if t.folders[name] {
		return nil
	}
	t.folders[name] = true
	if err := t.above(name); err != nil {
		return err
	}
	return t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, Uid: user, Gid: user, ModTime: t.date, Format: tar.FormatPAX})
}

func (t *reproducibleTar) above(name string) error {
	if i := strings.LastIndex(name, "/"); i > 0 {
		return t.folder(name[:i], 0o755, 0)
	}
	return nil
}
