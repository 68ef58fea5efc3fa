package install

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/google/uuid"
)

// Firmware is the folder of the firmware's variables, efivarfs.
type Firmware string

// Vendors of variables: UEFI's own, and systemd-boot's.
const (
	globalVendor = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
	loaderVendor = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
)

// bootDescription is our entry's in the firmware's boot menu.
const bootDescription = "Gangway"

// attributes: non-volatile, at boot, at run time (UEFI 2.10, 8.2.1).
const attributes = 7

func (f Firmware) path(name, vendor string) string {
	return filepath.Join(string(f), name+"-"+vendor)
}

// read returns a variable's value.
func (f Firmware) read(name, vendor string) ([]byte, error) {
	b, err := os.ReadFile(f.path(name, vendor))
	if err != nil {
		return nil, err
	}
	if len(b) < 4 {
		return nil, fmt.Errorf("install: the firmware's variable %s is broken", name)
	}
	return b[4:], nil
}

func (f Firmware) write(name string, value []byte) error {
	b := binary.LittleEndian.AppendUint32(nil, attributes)
	w, err := os.OpenFile(f.path(name, globalVendor), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("install: the firmware's variable %s: %w", name, err)
	}
	_, err = w.Write(append(b, value...)) // by one write, or not at all
	if err := errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("install: the firmware's variable %s: %w", name, err)
	}
	return nil
}

// text reads a variable of systemd-boot.
func (f Firmware) text(name string) (string, error) {
	b, err := f.read(name, loaderVendor)
	if err != nil {
		return "", err
	}
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return strings.TrimRight(string(utf16.Decode(u)), "\x00"), nil
}

// BootedFrom returns the GUID of the EFI system partition that this was started
// from, in lower case.
func (f Firmware) BootedFrom() (string, error) {
	s, err := f.text("LoaderDevicePartUUID")
	if err != nil {
		return "", fmt.Errorf("install: the boot manager does not say what it was started from: %w", err)
	}
	return strings.ToLower(s), nil
}

// Counted returns the path, in the EFI system partition, of the entry that was
// started, if its attempts are counted; otherwise it is empty.
func (f Firmware) Counted() (string, error) {
	s, err := f.text("LoaderBootCountPath")
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	s = strings.TrimPrefix(strings.ReplaceAll(s, `\`, "/"), "/")
	if !fs.ValidPath(s) {
		return "", fmt.Errorf("install: the boot manager names the entry %q", s)
	}
	return s, nil
}

// Start makes firmware start a system: next, and before all others from then
// on.
func (f Firmware) Start(i *Installed) error {
	option, err := loadOption(i)
	if err != nil {
		return err
	}
	n, _, err := f.entry()
	if err != nil {
		return err
	}
	if err := f.write(fmt.Sprintf("Boot%04X", n), option); err != nil {
		return err
	}
	order, err := f.order(n)
	if err != nil {
		return err
	}
	number := binary.LittleEndian.AppendUint16(nil, n)
	if err := f.write("BootOrder", append(number[:2:2], order...)); err != nil {
		return err
	}
	return f.write("BootNext", number)
}

// Forget removes our boot entry, and what firmware was told to start next.
func (f Firmware) Forget() error {
	for {
		n, found, err := f.entry()
		if err != nil {
			return err
		}
		if !found {
			return f.remove(oneShot, loaderVendor)
		}
		if next, err := f.read("BootNext", globalVendor); err == nil && len(next) == 2 && binary.LittleEndian.Uint16(next) == n {
			if err := f.remove("BootNext", globalVendor); err != nil {
				return err
			}
		}
		order, err := f.order(n)
		if err != nil {
			return err
		}
		if len(order) == 0 {
			err = f.remove("BootOrder", globalVendor)
		} else {
			err = f.write("BootOrder", order)
		}
		if err != nil {
			return err
		}
		if err := f.remove(fmt.Sprintf("Boot%04X", n), globalVendor); err != nil {
			return err
		}
	}
}

// Names reports whether our boot entry is for the EFI system partition of a GUID.
// Each installation has its own, so that the system there is this machine's.
func (f Firmware) Names(espGUID string) bool {
	guid, err := uuid.Parse(espGUID)
	if err != nil {
		return false
	}
	n, found, err := f.entry()
	if err != nil || !found {
		return false
	}
	option, err := f.read(fmt.Sprintf("Boot%04X", n), globalVendor)
	return err == nil && bytes.Contains(option, mixedEndian(guid))
}

// mixedEndian is a GUID as EFI has it in memory: the first three fields little-endian
// (UEFI 2.10, appendix A).
func mixedEndian(g uuid.UUID) []byte {
	return append([]byte{g[3], g[2], g[1], g[0], g[5], g[4], g[7], g[6]}, g[8:]...)
}

// order is the firmware's boot order without an entry.
func (f Firmware) order(without uint16) ([]byte, error) {
	order, err := f.read("BootOrder", globalVendor)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("install: the firmware's boot order: %w", err)
	}
	var rest []byte
	for ; len(order) >= 2; order = order[2:] {
		if binary.LittleEndian.Uint16(order) != without {
			rest = append(rest, order[:2]...)
		}
	}
	return rest, nil
}

// entry is the number of our boot entry, and whether there is one; if not, it
// is a number that is free.
func (f Firmware) entry() (n uint16, ours bool, err error) {
	free, found := uint16(0), false
	for n := range uint16(0x100) {
		b, err := f.read(fmt.Sprintf("Boot%04X", n), globalVendor)
		if errors.Is(err, fs.ErrNotExist) {
			if !found {
				free, found = n, true
			}
			continue
		}
		if err != nil {
			return 0, false, fmt.Errorf("install: the firmware's boot entries: %w", err)
		}
		if len(b) > 6 && slices.Equal(b[6:min(len(b), 6+len(utf16z(bootDescription)))], utf16z(bootDescription)) {
			return n, true, nil
		}
	}
	if !found {
		return 0, false, errors.New("install: the firmware has no room for a boot entry")
	}
	return free, false, nil
}

func utf16z(s string) []byte {
	var b []byte
	for _, u := range append(utf16.Encode([]rune(s)), 0) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

// loadOption is an EFI_LOAD_OPTION (UEFI 2.10, 3.1.3) with the device path of
// the boot manager: a node for the partition (10.3.5.1), one for the file
// (10.3.5.4) and the end.
func loadOption(i *Installed) ([]byte, error) {
	guid, err := uuid.Parse(i.ESPGUID)
	if err != nil {
		return nil, fmt.Errorf("install: %w", err)
	}
	le := binary.LittleEndian
	path := []byte{4, 1, 42, 0}
	path = le.AppendUint32(path, 1) // partition number
	path = le.AppendUint64(path, uint64(i.ESPStart/i.Sector))
	path = le.AppendUint64(path, uint64(i.ESPSize/i.Sector))
	path = append(path, mixedEndian(guid)...)
	path = append(path, 2, 2) // GPT, by GUID
	name := utf16z(`\EFI\BOOT\BOOTX64.EFI`)
	path = append(path, 4, 4)
	path = le.AppendUint16(path, uint16(4+len(name)))
	path = append(path, name...)
	path = append(path, 0x7F, 0xFF, 4, 0)

	option := le.AppendUint32(nil, 1) // active
	option = le.AppendUint16(option, uint16(len(path)))
	option = append(option, utf16z(bootDescription)...)
	return append(option, path...), nil
}

// Uncounted is the path of an entry without its counter: gangway-a+2-1.efi
// becomes gangway-a.efi (systemd's Automatic Boot Assessment).
func Uncounted(path string) (string, bool) {
	stem, ok := strings.CutSuffix(path, ".efi")
	if !ok {
		return path, false
	}
	name, counter, ok := cutLast(stem, "+")
	if !ok || counter == "" || strings.Trim(counter, "0123456789-") != "" || strings.Contains(counter, "/") {
		return path, false
	}
	return name + ".efi", true
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
