// Package image makes boot media: an initial file system, a unified kernel image and a disk with
// both. Package image/stick uses it for the installer image, and tests use it for small machines.
// The package needs no root, no loop device, no mount and no other program. The same input always
// gives the same bytes.
//
//	initrd, _ := image.Initramfs(files)
//	uki, _ := image.UKI{Stub: stub, Kernel: kernel, Initrd: initrd, Cmdline: "quiet"}.Build()
//	err := image.Disk{ESP: []image.File{{Path: "EFI/BOOT/BOOTX64.EFI", Data: uki}}}.Write("disk.img")
//
// Firmware and the stub measure the whole unified kernel image into the TPM before it runs. So
// nobody can change kernel, initial file system or command line without changing the
// measurements.
package image

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// File is a file of an initial file system or of the EFI system partition.
type File struct {
	// Path is relative and slash-separated, as in io/fs: "bin/init". Missing parent folders are
	// made.
	Path string
	Data []byte
	// Mode holds the permissions; FAT has none. Zero is 0644. With fs.ModeSymlink, the file is a
	// symbolic link whose target is Data; links work only in an initial file system.
	Mode fs.FileMode
}

// sorted returns the files sorted by path, after checking the paths.
func sorted(files []File) ([]File, error) {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	seen := map[string]bool{}
	for _, f := range files {
		if !fs.ValidPath(f.Path) || f.Path == "." || strings.ContainsRune(f.Path, 0) {
			return nil, fmt.Errorf("image: %q is not the path of a file, such as bin/init", f.Path)
		}
		if seen[f.Path] {
			return nil, fmt.Errorf("image: there are two files %s", f.Path)
		}
		seen[f.Path] = true
	}
	for _, f := range files {
		for _, d := range parents(f.Path) {
			if seen[d] {
				return nil, fmt.Errorf("image: %s cannot be in %s, which is a file", f.Path, d)
			}
		}
	}
	return files, nil
}

// parents returns the folders above a path, starting at the outermost.
func parents(path string) []string {
	var out []string
	for i, c := range path {
		if c == '/' {
			out = append(out, path[:i])
		}
	}
	return out
}
