package factory

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"gangway/internal/diskfile"
)

// export is a file made by `pvr export`: a tar archive, optionally compressed with gzip. The
// archive contains the state as the member json, and each object as a member of objects/, named by
// its SHA-256.
type export struct{ file *os.File }

// Bounds on an export, so that a hostile file cannot fill the memory or the disk.
const (
	maxExport  = 2 << 30 // bytes, unpacked
	maxMembers = 1 << 16
)

func newExport(path string) (source, error) {
	f, err := diskfile.Open(path, 0)
	if err != nil {
		return nil, err
	}
	return export{f}, nil
}

func (e export) kind() string { return "an export" }
func (e export) close()       { e.file.Close() }

func (e export) state(context.Context) (text []byte, err error) {
	err = e.each(func(name string, content io.Reader) error {
		if name != "json" {
			return nil
		}
		text, err = io.ReadAll(io.LimitReader(content, maxState))
		return err
	})
	if err == nil && text == nil {
		err = errors.New("the file is not an export of pvr, because it has no state (json): use a file made by `pvr export`")
	}
	return text, err
}

func (e export) objects(ctx context.Context, store *folder, sums []string) error {
	return e.each(func(name string, content io.Reader) error {
		if sum, is := strings.CutPrefix(name, "objects/"); is && slices.Contains(sums, sum) {
			return errors.Join(ctx.Err(), store.keep(sum, content))
		}
		return nil
	})
}

// The method `each` reads the export from its beginning and calls the function `see` with each
// member. It never uses a member's name as a path. It refuses an export with a member that pvr
// never writes, because such an export was made or changed by another program.
func (e export) each(see func(name string, content io.Reader) error) error {
	if _, err := e.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	var from io.Reader = bufio.NewReader(e.file)
	if magic, err := from.(*bufio.Reader).Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(from)
		if err != nil {
			return fmt.Errorf("the file is not an export of pvr (use a file made by `pvr export`): %w", err)
		}
		defer z.Close()
		from = z
	}
	limited := &io.LimitedReader{R: from, N: maxExport}
	members := tar.NewReader(limited)
	seen := map[string]bool{}
	for {
		h, err := members.Next()
		if limited.N <= 0 || len(seen) > maxMembers {
			return fmt.Errorf("the export is too large: it has more than %d MiB, or more than %d files", maxExport>>20, maxMembers)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the file is damaged, or is not an export of pvr (use a file made by `pvr export`): %w", err)
		}
		name := strings.TrimPrefix(h.Name, "./")
		if h.Typeflag == tar.TypeDir && (name == "" || name == "objects/") {
			continue
		}
		sum, object := strings.CutPrefix(name, "objects/")
		if h.Typeflag != tar.TypeReg || name != "json" && (!object || !isSum(sum)) {
			return fmt.Errorf("the export has the member %.100q, which pvr never writes: make the file again with `pvr export`", h.Name)
		}
		if seen[name] {
			return fmt.Errorf("the export has %s twice", name)
		}
		seen[name] = true
		if err := see(name, members); err != nil {
			return err
		}
	}
}

func isSum(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
