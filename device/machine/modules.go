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

// LoadModules loads the kernel modules that dir/order names, in its order; a folder without that
// file has none. A module that fails to load does not stop the others. If a device is missing, that
// is not an error, neither for the device's driver nor for the modules that depend on that driver.
func LoadModules(dir string) []error { return loadModules(dir, loadModule) }

func loadModules(dir string, load func(path string) error) (errs []error) {
	order, err := os.ReadFile(filepath.Join(dir, "order"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // everything is built into the kernel
	}
	if err != nil {
		return []error{fmt.Errorf("modules: %w", err)}
	}
	for name := range strings.FieldsSeq(string(order)) {
		if err := load(filepath.Join(dir, name)); err != nil && !harmless(err) {
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

// initError is the kernel's reason not to load a module.
type initError struct{ error }

func (e initError) Unwrap() error { return e.error }

// harmless reports whether the machine works without a module that failed to load: it is loaded
// already (EEXIST); its hardware is missing (ENODEV); or a symbol is missing (ENOENT), because a
// module that it depends on was not loaded. If that other module's failure is not harmless, it is
// reported by itself. Hyper-V's drivers on other machines are an example.
func harmless(err error) bool {
	var e initError
	return errors.As(err, &e) && (errors.Is(e, unix.EEXIST) || errors.Is(e, unix.ENODEV) || errors.Is(e, unix.ENOENT))
}
