package machine

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Drivers of hardware that a machine does not have are not worth a line; a module
// that the image should have is.
func TestDriversForOtherMachinesAreNoErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{initError{unix.ENODEV}, true}, // hv_vmbus, where there is no Hyper-V
		{initError{unix.ENOENT}, true}, // hv_storvsc, which depends on it
		{initError{unix.EEXIST}, true},
		{initError{unix.ENOEXEC}, false}, // of another kernel
		{initError{unix.EKEYREJECTED}, false},
		{unix.ENOENT, false}, // there is no such file
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
