// Package image makes boot media: an initial file system, a unified kernel image, and a disk image
// that contains them. Package image/stick uses it for the installer image, and tests use it to boot
// small virtual machines. The package needs no root privileges, no loop device, no mount and no
// other program. The same input always gives the same bytes.
//
//	initrd, _ := image.Initramfs(files)
//	uki, _ := image.UKI{Stub: stub, Kernel: kernel, Initrd: initrd, Cmdline: "quiet"}.Build()
//	err := image.Disk{ESP: []image.File{{Path: "EFI/BOOT/BOOTX64.EFI", Data: uki}}}.Write("disk.img")
//
// Firmware, and the EFI stub at the start of the unified kernel image, measure the whole image into
// the TPM before the kernel runs. So any change of the kernel, the initial file system or the
// command line changes the measurements.
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
	// created.
	Path string
	Data []byte
	// Mode contains the permissions, as in io/fs; zero means 0644. They have no effect on FAT. With
	// fs.ModeSymlink, the file is a symbolic link to the path in Data, which is possible only in an
	// initial file system.
	Mode fs.FileMode
}

// The function `sorted` checks the paths of the files, and returns the files in the order of their
// paths.
func sorted(files []File) ([]File, error) {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	seen := map[string]bool{}
	for _, f := range files {
		if !fs.ValidPath(f.Path) || f.Path == "." || strings.ContainsRune(f.Path, 0) {
			return nil, fmt.Errorf("image: %q is not a relative file path such as bin/init", f.Path)
		}
		if seen[f.Path] {
			return nil, fmt.Errorf("image: two files have the path %s", f.Path)
		}
		seen[f.Path] = true
	}
	for _, f := range files {
		for _, d := range parents(f.Path) {
			if seen[d] {
				return nil, fmt.Errorf("image: the path %s is invalid: %s is a file, not a folder", f.Path, d)
			}
		}
	}
	return files, nil
}

// parents returns the folders above a path, from the outermost to the innermost.
func parents(path string) []string {
	var out []string
	for i, c := range path {
		if c == '/' {
			out = append(out, path[:i])
		}
	}
	return out
}
