package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// LoadModules loads the modules that dir/order names, in its order. One that
// does not load keeps no other back. If a module's hardware is not there, that is
// no error, for the modules that depend on it either.
func LoadModules(dir string) (errs []error) {
	order, err := os.ReadFile(filepath.Join(dir, "order"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // all is in the kernel
	}
	if err != nil {
		return []error{fmt.Errorf("modules: %w", err)}
	}
	for name := range strings.FieldsSeq(string(order)) {
		if err := loadModule(filepath.Join(dir, name)); err != nil && !harmless(err) {
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
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
		return initError{err}
	}
	return nil
}

// initError is the kernel's answer to a module.
type initError struct{ error }

func (e initError) Unwrap() error { return e.error }

// harmless reports whether a module need not be loaded: it is there already, its
// hardware is not (ENODEV), or what it depends on was not loaded (ENOENT, a symbol
// is missing), which is an error of that one if it is an error: Hyper-V's drivers
// elsewhere.
func harmless(err error) bool {
	var e initError
	return errors.As(err, &e) && (errors.Is(e, unix.EEXIST) || errors.Is(e, unix.ENODEV) || errors.Is(e, unix.ENOENT))
}
