package image

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// Modules returns the kernel modules with these names (such as "virtio_net") and all modules that
// they depend on, as files for the initial file system. `dir` is the folder lib/modules/VERSION of
// a kernel package. Each module becomes lib/modules/NAME.ko. The additional file lib/modules/order
// has one name per line, in the order in which init must load the modules. Modules leaves out
// modules that are built into the kernel. It reads the dependencies from the module files, not from
// modules.dep.
func Modules(dir fs.FS, names ...string) ([]File, error) {
	m := modules{dir: dir, state: map[string]int{}}
	if err := m.index(); err != nil {
		return nil, err
	}
	for _, n := range names {
		if err := m.add(n); err != nil {
			return nil, err
		}
	}
	if len(m.files) == 0 {
		return nil, nil
	}
	return append(m.files, File{Path: "lib/modules/order", Data: m.order.Bytes()}), nil
}

type modules struct {
	dir   fs.FS
	path  map[string]string // file of each module; "" if the module is built into the kernel
	state map[string]int    // 1: its dependencies are being added, 2: added
	files []File
	order bytes.Buffer
}

// moduleName returns the kernel's name of a module, which has underscores instead of dashes.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

func (m *modules) index() error {
	m.path = map[string]string{}
	err := fs.WalkDir(m.dir, ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if name, ok := strings.CutSuffix(path.Base(p), ".ko"); ok {
				m.path[moduleName(name)] = p
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("image: kernel modules: %w", err)
	}
	built, err := fs.ReadFile(m.dir, "modules.builtin")
	if err != nil {
		return fmt.Errorf("image: this is not a kernel package's folder lib/modules/VERSION: %w", err)
	}
	for p := range strings.FieldsSeq(string(built)) {
		m.path[moduleName(strings.TrimSuffix(path.Base(p), ".ko"))] = ""
	}
	return nil
}

// The method `add` adds a module after all modules that it depends on.
func (m *modules) add(name string) error {
	name = moduleName(name)
	p, ok := m.path[name]
	switch {
	case !ok:
		return fmt.Errorf("image: the kernel has no uncompressed module (.ko) %q", name)
	case p == "" || m.state[name] == 2:
		return nil
	case m.state[name] == 1:
		return fmt.Errorf("image: kernel module %s depends on itself", name)
	}
	m.state[name] = 1
	data, err := fs.ReadFile(m.dir, p)
	if err != nil {
		return fmt.Errorf("image: reading a kernel module: %w", err)
	}
	needs, err := depends(data)
	if err != nil {
		return fmt.Errorf("image: kernel module %s: %w", p, err)
	}
	for _, n := range needs {
		if err := m.add(n); err != nil {
			return err
		}
	}
	m.state[name] = 2
	m.files = append(m.files, File{Path: "lib/modules/" + name + ".ko", Data: data})
	fmt.Fprintf(&m.order, "%s.ko\n", name)
	return nil
}

// The function `depends` reads the field "depends" of a module's section .modinfo.
func depends(module []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("the section .modinfo is missing")
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	for field := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok {
			return strings.FieldsFunc(list, func(r rune) bool { return r == ',' }), nil
		}
	}
	return nil, nil
}
