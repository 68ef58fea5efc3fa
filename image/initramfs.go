package image

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"math"
)

// Types of files in the mode field, as in stat(2).
const (
	typeDir  = 0o040000
	typeFile = 0o100000
	typeChar = 0o020000
	typeLink = 0o120000
)

// Initramfs makes a compressed initial file system for Linux: a cpio archive of the format "newc"
// (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst). All files are owned by
// root and have the time zero. Initramfs adds /dev/console, so that init has a console before it
// mounts anything.
func Initramfs(files []File) ([]byte, error) {
	files, err := sorted(files)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	// The best compression would take 2.5 times as long and save 0.3 %. Gzip's header has no time
	// and no file name, so the result depends only on the files.
	z := gzip.NewWriter(&out)
	w := &cpio{w: z}
	w.dir("dev")
	w.entry(cpioEntry{path: "dev/console", mode: typeChar | 0o600, rdev: [2]uint32{5, 1}})
	made := map[string]bool{"dev": true}
	for _, f := range files {
		for _, d := range parents(f.Path) {
			if !made[d] {
				made[d] = true
				w.dir(d)
			}
		}
		if f.Mode&fs.ModeSymlink != 0 {
			w.entry(cpioEntry{path: f.Path, mode: typeLink | 0o777, data: f.Data})
			continue
		}
		mode := f.Mode & fs.ModePerm
		if mode == 0 {
			mode = 0o644
		}
		w.entry(cpioEntry{path: f.Path, mode: typeFile | uint32(mode), data: f.Data})
	}
	w.entry(cpioEntry{path: "TRAILER!!!"})
	if w.err == nil {
		w.err = z.Close()
	}
	if w.err != nil {
		return nil, fmt.Errorf("image: making the initial file system: %w", w.err)
	}
	return out.Bytes(), nil
}

// Join joins several initial file systems into one. The kernel unpacks them one after another, and
// a later file replaces an earlier file with the same path. With Join, a caller needs to compress
// files that many images share only once.
func Join(initramfs ...[]byte) []byte {
	var out []byte
	for _, part := range initramfs {
		out = append(pad(out, 4), part...) // each file system must start at a multiple of 4
	}
	return out
}

// cpio writes an archive in the format newc. It remembers the first error.
type cpio struct {
	w   io.Writer
	ino uint32
	err error
}

type cpioEntry struct {
	path string
	mode uint32
	rdev [2]uint32 // major and minor number, if the entry is a device
	data []byte
}

func (c *cpio) dir(path string) { c.entry(cpioEntry{path: path, mode: typeDir | 0o755}) }

// The method `entry` writes one entry: a magic number, 13 numbers of 8 hexadecimal digits, the path
// with a terminating zero byte, and the data. Path and data are padded to multiples of 4 bytes.
func (c *cpio) entry(e cpioEntry) {
	if c.err != nil {
		return
	}
	if len(e.data) > math.MaxInt32 {
		c.err = fmt.Errorf("%s is too large: %d bytes", e.path, len(e.data))
		return
	}
	ino, links := uint32(0), uint32(1)
	if e.mode != 0 { // only the trailer has mode 0
		c.ino++
		ino = c.ino
	}
	if e.mode&typeDir != 0 {
		links = 2
	}
	head := []byte("070701")
	for _, n := range []uint32{
		ino, e.mode, 0, 0, links, 0, // inode, mode, uid, gid, links, time
		uint32(len(e.data)), 0, 0, e.rdev[0], e.rdev[1], // size, device of the file system, device number of the entry
		uint32(len(e.path) + 1), 0, // length of the path, checksum
	} {
		head = fmt.Appendf(head, "%08X", n)
	}
	head = append(head, e.path...)
	head = append(head, 0)
	for _, b := range [][]byte{head, e.data} {
		c.write(b)
		c.write(make([]byte, -len(b)&3))
	}
}

func (c *cpio) write(b []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(b)
	}
}
