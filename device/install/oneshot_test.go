package install

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestBootManagerIsToldWhatToStartOnce(t *testing.T) {
	t.Parallel()
	f := Firmware(t.TempDir())
	name := f.path("LoaderEntryOneShot", loaderVendor)
	for range 2 {
		if err := f.StartOnce("gangway-b.efi"); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(name)
		if got := hex.EncodeToString(b); err != nil || got != "07000000"+"670061006e0067007700610079002d0062002e006500660069000000" {
			t.Errorf("the variable holds %s, %v", got, err)
		}
	}
	for range 2 {
		if err := f.StartOnce(""); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the choice is not cancelled: %v", err)
		}
	}
	if _, err := f.Selected(); err == nil {
		t.Error("Selected succeeds without the boot manager's variable")
	}
}

// If the machine's firmware does not remove a variable, StartOnce fails. Otherwise the machine
// would start the same system at every boot.
func TestFirmwareThatDoesNotForgetIsNotReliedOn(t *testing.T) {
	t.Parallel()
	f := Firmware(t.TempDir())
	name := f.path("LoaderEntryOneShot", loaderVendor)
	// The test puts a folder with a file where the variable's file should be. Like a variable in
	// such firmware, StartOnce can neither write nor remove the folder.
	if err := os.MkdirAll(filepath.Join(name, "kept"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := f.StartOnce("gangway-b.efi"); err == nil {
		t.Error("StartOnce succeeds with firmware that does not remove the variable")
	}
	if err := f.StartOnce(""); err == nil {
		t.Error("cancelling succeeds, but the variable is still there")
	}
}
