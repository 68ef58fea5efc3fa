package machine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A driver for hardware that the machine does not have causes no error. A module that is missing in
// the image causes an error.
func TestDriversForOtherMachinesAreNoErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want bool
	}{
		{initError{unix.ENODEV}, true}, // hv_vmbus, on a machine without Hyper-V
		{initError{unix.ENOENT}, true}, // hv_storvsc, which depends on hv_vmbus
		{initError{unix.EEXIST}, true},
		{initError{unix.ENOEXEC}, false}, // built for another kernel
		{initError{unix.EKEYREJECTED}, false},
		{unix.ENOENT, false}, // the file is missing
	} {
		if got := harmless(c.err); got != c.want {
			t.Errorf("%#v: %v", c.err, got)
		}
	}
	dir := t.TempDir()
	if errs := LoadModules(dir); errs != nil {
		t.Errorf("without modules: %v", errs)
	}
	if err := os.WriteFile(filepath.Join(dir, "order"), []byte("gone.ko\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if errs := LoadModules(dir); len(errs) != 1 {
		t.Errorf("a module that is not there: %v", errs)
	}
}

// LoadModules loads the kernel modules in order. If one module fails to load, LoadModules still
// loads the next modules.
func TestModulesAreLoadedInOrder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "order"), []byte("virtio.ko\nbad.ko\nhyperv.ko\nnvme.ko\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var loaded []string
	errs := loadModules(dir, func(path string) error {
		loaded = append(loaded, filepath.Base(path))
		switch filepath.Base(path) {
		case "bad.ko":
			return initError{unix.ENOEXEC}
		case "hyperv.ko":
			return initError{unix.ENODEV}
		}
		return nil
	})
	if !slices.Equal(loaded, []string{"virtio.ko", "bad.ko", "hyperv.ko", "nvme.ko"}) {
		t.Errorf("loaded %q", loaded)
	}
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), "module bad.ko") || !errors.Is(errs[0], unix.ENOEXEC) {
		t.Errorf("errors: %v", errs)
	}
	if err := os.Remove(filepath.Join(dir, "order")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "order"), 0o700); err != nil {
		t.Fatal(err)
	}
	if errs := LoadModules(dir); len(errs) != 1 || errors.Is(errs[0], fs.ErrNotExist) {
		t.Errorf("an order that cannot be read: %v", errs)
	}
}
