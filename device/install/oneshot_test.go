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
	f := Firmware(t.TempDir())
	name := f.path("LoaderEntryOneShot", loaderVendor)
	for range 2 {
		if err := f.StartOnce("gangway-b.efi"); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(name)
		if got := hex.EncodeToString(b); err != nil || got != "07000000"+"670061006e0067007700610079002d0062002e006500660069000000" {
			t.Errorf("%s %v", got, err)
		}
	}
	for range 2 {
		if err := f.StartOnce(""); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it is not taken back: %v", err)
		}
	}
	if _, err := f.Selected(); err == nil {
		t.Error("something was started by nobody")
	}
}

// Firmware that keeps a variable which it was told to remove would start the
// same system for ever.
func TestFirmwareThatDoesNotForgetIsNotReliedOn(t *testing.T) {
	f := Firmware(t.TempDir())
	name := f.path("LoaderEntryOneShot", loaderVendor)
	// A folder with something in it is what can be neither written nor removed.
	if err := os.MkdirAll(filepath.Join(name, "kept"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := f.StartOnce("gangway-b.efi"); err == nil {
		t.Error("it is relied on")
	}
	if err := f.StartOnce(""); err == nil {
		t.Error("it is said to have forgotten")
	}
}
