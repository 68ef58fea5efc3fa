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

	"gangway/wire"

	"github.com/google/uuid"
)

// Firmware is the path of the folder with the firmware's variables (efivarfs). The methods of
// Firmware read and change the firmware's boot configuration.
type Firmware string

// Vendor GUIDs of EFI variables: the GUID of the variables that UEFI defines, and that of
// systemd-boot's variables.
const (
	globalVendor = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
	loaderVendor = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
)

// attributes are the attributes of the variables that Gangway writes: non-volatile, and accessible
// both at boot and at run time (UEFI 2.10, 8.2.1).
const attributes = 7

func (f Firmware) path(name, vendor string) string {
	return filepath.Join(string(f), name+"-"+vendor)
}

// read returns a variable's value, without its attributes.
func (f Firmware) read(name, vendor string) ([]byte, error) {
	b, err := os.ReadFile(f.path(name, vendor))
	if err != nil {
		return nil, err
	}
	if len(b) < 4 {
		return nil, fmt.Errorf("install: the firmware's variable %s has %d bytes; at least 4 are required", name, len(b))
	}
	return b[4:], nil
}

// Variable returns a variable's value, without its attributes. If the variable does not exist, the
// error is fs.ErrNotExist.
func (f Firmware) Variable(name string, vendor uuid.UUID) ([]byte, error) {
	return f.read(name, vendor.String())
}

func (f Firmware) write(name string, value []byte) error {
	b := binary.LittleEndian.AppendUint32(nil, attributes)
	w, err := os.OpenFile(f.path(name, globalVendor), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("install: writing the firmware's variable %s: %w", name, err)
	}
	_, err = w.Write(append(b, value...)) // efivarfs requires a single write
	if err := errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("install: writing the firmware's variable %s: %w", name, err)
	}
	return nil
}

// The method `text` reads a variable of systemd-boot that contains text, and decodes it from
// UTF-16.
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

// BootedFrom returns the GUID, in lower case, of the EFI system partition from which the machine
// booted.
func (f Firmware) BootedFrom() (string, error) {
	s, err := f.text("LoaderDevicePartUUID")
	if err != nil {
		return "", fmt.Errorf("install: reading the partition that the boot manager started from: %w", err)
	}
	return strings.ToLower(s), nil
}

// Counted returns the path of the running system's boot entry in the EFI system partition. The path
// is empty if the boot manager does not count the boot attempts of that entry.
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
		return "", fmt.Errorf("install: the boot manager reports the invalid entry path %q", s)
	}
	return s, nil
}

// Start makes the firmware boot the system `i` at the next boot, and puts this system first in the
// boot order.
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

// Forget removes Gangway's boot entries from the firmware. If the variable BootNext names one of
// these entries, Forget removes BootNext too. It also removes the variables of StartOnce and
// NoteStick.
func (f Firmware) Forget() error {
	for {
		n, found, err := f.entry()
		if err != nil {
			return err
		}
		if !found {
			return errors.Join(f.remove(oneShot, loaderVendor), f.ForgetStick())
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

// Names reports whether the firmware's boot entry for Gangway names the EFI system partition with
// the GUID `espGUID`. Each installation has its own GUID, so if the entry names `espGUID`, the
// system on that partition belongs to this machine.
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

// mixedEndian encodes a GUID as EFI does in memory: the first three fields are little-endian
// (UEFI 2.10, appendix A).
func mixedEndian(g uuid.UUID) []byte {
	return append([]byte{g[3], g[2], g[1], g[0], g[5], g[4], g[7], g[6]}, g[8:]...)
}

// The method `order` returns the firmware's boot order without the entry `without`.
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

// The method `entry` returns the number of Gangway's boot entry and true. If the firmware has no
// such entry, it returns a free number and false.
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
		if len(b) > 6 && slices.Equal(b[6:min(len(b), 6+len(utf16z(wire.BootDescription)))], utf16z(wire.BootDescription)) {
			return n, true, nil
		}
	}
	if !found {
		return 0, false, errors.New("install: all 256 boot entries of the firmware are in use")
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

// loadOption returns the boot entry of an installed system (wire.BootEntry).
func loadOption(i *Installed) ([]byte, error) {
	guid, err := uuid.Parse(i.ESPGUID)
	if err != nil {
		return nil, fmt.Errorf("install: %w", err)
	}
	return wire.BootEntry(uint64(i.ESPStart/i.Sector), uint64(i.ESPSize/i.Sector), [16]byte(mixedEndian(guid))), nil
}

// Uncounted returns a boot entry's path without the attempt counter, and whether the path had a
// counter: gangway-a+2-1.efi becomes gangway-a.efi (systemd's Automatic Boot Assessment).
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
