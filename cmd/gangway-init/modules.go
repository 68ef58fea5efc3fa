package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// loadModules loads the modules that dir/order names, in its order. One that
// does not load keeps no other back, and one whose hardware is not there is no
// error.
func loadModules(dir string) (errs []error) {
	order, err := os.ReadFile(filepath.Join(dir, "order"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // all is in the kernel
	}
	if err != nil {
		return []error{fmt.Errorf("modules: %w", err)}
	}
	for name := range strings.FieldsSeq(string(order)) {
		if err := loadModule(filepath.Join(dir, name)); err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("module %s: %w", name, err))
		}
	}
	return errs
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}
