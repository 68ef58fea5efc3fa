// Package image makes what a machine boots from: an initial file system, a
// unified kernel image and a disk with both. It needs no root, no loop device,
// no mount and no other program, and the same input gives the same bytes.
//
//	initrd, _ := image.Initramfs(files)
//	uki, _ := image.UKI{Stub: stub, Kernel: kernel, Initrd: initrd, Cmdline: "quiet"}.Build()
//	err := image.Disk{ESP: []image.File{{Path: "EFI/BOOT/BOOTX64.EFI", Data: uki}}}.Write("disk.img")
//
// All of the unified kernel image is measured by firmware and stub before it
// runs: kernel, initial file system and command line cannot differ unseen.
package image

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// File is a file of an initial file system or of the EFI system partition.
type File struct {
	// Path is relative and slash-separated, as io/fs wants it: "bin/init".
	// Folders on the way are made.
	Path string
	Data []byte
	// Mode has the permissions; FAT knows none. Zero is 0644. With
	// fs.ModeSymlink it is a symbolic link to Data, in an initial file system
	// alone.
	Mode fs.FileMode
}

// inOrder returns the files sorted by path, after checking the paths.
func inOrder(files []File) ([]File, error) {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	seen := map[string]bool{}
	for _, f := range files {
		if !fs.ValidPath(f.Path) || f.Path == "." || strings.ContainsRune(f.Path, 0) {
			return nil, fmt.Errorf("image: %q is no path of a file, such as bin/init", f.Path)
		}
		if seen[f.Path] {
			return nil, fmt.Errorf("image: %s is there twice", f.Path)
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

// parents returns the folders above a path, the outermost first.
func parents(path string) []string {
	var out []string
	for i, c := range path {
		if c == '/' {
			out = append(out, path[:i])
		}
	}
	return out
}
