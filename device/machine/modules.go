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

// LoadModules loads the kernel modules that the file `order` in the folder `dir` names, in the
// order of the file. If the file does not exist, there are no modules. If a module fails to load,
// LoadModules continues with the next module. If the machine lacks some hardware, neither the
// hardware's driver nor a module that depends on this driver causes an error.
func LoadModules(dir string) []error { return loadModules(dir, loadModule) }

func loadModules(dir string, load func(path string) error) (errs []error) {
	order, err := os.ReadFile(filepath.Join(dir, "order"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no modules: all drivers are built into the kernel
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

// The function `harmless` reports whether the machine works without a module that failed to load.
// The module may already be loaded (EEXIST). Its hardware may be missing (ENODEV). Or a symbol may
// be missing (ENOENT), because another module was not loaded. If the failure of that other module
// is not harmless, LoadModules returns a separate error for it. For example, Hyper-V's drivers fail
// without harm on a machine without Hyper-V.
func harmless(err error) bool {
	var e initError
	return errors.As(err, &e) && (errors.Is(e, unix.EEXIST) || errors.Is(e, unix.ENODEV) || errors.Is(e, unix.ENOENT))
}
