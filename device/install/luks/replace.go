package luks

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"golang.org/x/crypto/xts"
)

// ReplacePassphrase gives the key slot `slot` a new passphrase. In the same step, it replaces all
// LUKS2 tokens of the types `kinds` with the LUKS2 tokens `list`. After a power cut, the header has
// either the old passphrase with the old LUKS2 tokens, or the new passphrase with the new ones. At
// the end, ReplacePassphrase erases the copy of `key` that the old passphrase encrypts. `key` is
// the key that encrypts the partition's data.
func ReplacePassphrase(d Disk, key Key, slot int, passphrase []byte, kinds []string, list []map[string]any) error {
	if len(passphrase) < 16 {
		return fmt.Errorf("luks: the passphrase has %d bytes; at least 16 are required", len(passphrase))
	}
	b, intact, err := newest(d)
	if err != nil {
		return err
	}
	m, err := readHeader(d)
	if err != nil {
		return err
	}
	if err := m.check(); err != nil {
		return err
	}
	name := strconv.Itoa(slot)
	old, ok := m.Keyslots[name]
	if !ok || !slices.Contains(m.Digests["0"].Keyslots, name) {
		return fmt.Errorf("luks: the header has no key slot %s", name)
	}
	area, err := freeArea(m)
	if err != nil {
		return err
	}
	next := newKeyslot(area)
	stripes := make([]byte, slotSize)
	if err := next.crypt(stripes, split(key), passphrase, (*xts.Cipher).Encrypt); err != nil {
		return err
	}
	if err := writeArea(d, next, stripes); err != nil {
		return err
	}
	var all, slots map[string]json.RawMessage
	if err := json.Unmarshal(textOf(b), &all); err != nil {
		return fmt.Errorf("luks: the header's JSON: %w", err)
	}
	if err := json.Unmarshal(all["keyslots"], &slots); err != nil {
		return fmt.Errorf("luks: the header's JSON: %w", err)
	}
	if slots[name], err = json.Marshal(next); err != nil {
		return fmt.Errorf("luks: %w", err)
	}
	if all["keyslots"], err = json.Marshal(slots); err != nil {
		return fmt.Errorf("luks: %w", err)
	}
	text, err := withTokens(all, slot, kinds, list)
	if err != nil {
		return err
	}
	if err := write(d, b, text, intact); err != nil {
		return err
	}
	return writeArea(d, old, random(slotSize))
}

func writeArea(d Disk, k keyslot, content []byte) error {
	if _, err := d.WriteAt(content, k.Area.Offset); err != nil {
		return fmt.Errorf("luks: writing a key slot: %w", err)
	}
	if err := d.Sync(); err != nil {
		return fmt.Errorf("luks: writing a key slot: %w", err)
	}
	return nil
}

// freeArea returns the number of an area that no key slot uses.
func freeArea(m *metadata) (int, error) {
	for n := range (Overhead - slotsBegin) / slotSize {
		at := int64(slotsBegin + n*slotSize)
		used := false
		for k := range maps.Values(m.Keyslots) {
			used = used || at < k.Area.Offset+k.Area.Size && k.Area.Offset < at+slotSize
		}
		if !used {
			return n, nil
		}
	}
	return 0, errors.New("luks: all key slots are used; remove one with 'cryptsetup luksKillSlot'")
}
