package boot

import (
	"crypto"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"

	"gangway/wire/manifest"
)

// ofFirmware reports whether an event's digest proves that the event is a separator or one of the
// firmware's actions in `steps`. Such an event does not start a program.
func ofFirmware(e Event) bool {
	return e.What == whatSeparator || strings.HasPrefix(e.What, "the firmware's step ") ||
		strings.HasPrefix(e.What, "the separator in PCR ") || e.What == fmt.Sprintf(likeSeparator, e.PCR)
}

// programs returns the digests of the programs in PCR 4, in order. The result `ok` is false if the
// log does not explain PCR 4.
func programs(events []Event, unexplained []int) (digests []string, ok bool) {
	if slices.Contains(unexplained, pathPCR) {
		return nil, false
	}
	for _, e := range eventsOf(events, pathPCR) {
		if !ofFirmware(e) {
			digests = append(digests, e.Digest)
		}
	}
	return digests, len(digests) > 0
}

// started reports whether the last program in PCR 4 is the system of a manifest, which only its own
// kernel may follow. With Secure Boot off, the system's stub asks the firmware to start the kernel,
// so the firmware measures the kernel too. With Secure Boot on, systemd's stub starts the kernel
// itself, and PCR 4 has no event for the kernel.
func (j *judge) started(m *manifest.Manifest) bool {
	_, ok := j.before(m)
	return ok
}

// before returns the digests of the programs that were started before the system of a manifest. The
// result `ok` is false if PCR 4 does not show that this system was started.
func (j *judge) before(m *manifest.Manifest) (digests []string, ok bool) {
	system := m.System.Authenticode[j.Bank]
	all, ok := programs(j.Events, j.Unexplained)
	if !ok || system == "" {
		return nil, false
	}
	if len(all) > 1 && all[len(all)-1] == m.System.Kernel.Authenticode[j.Bank] {
		all = all[:len(all)-1]
	}
	last := len(all) - 1
	if all[last] != system {
		return nil, false
	}
	return all[:last], true
}

// startedAlone reports whether firmware started the system of a manifest directly, or through a
// boot manager that one of the owner's manifests names, and started no other program before it.
func (j *judge) startedAlone(m *manifest.Manifest) bool {
	first, ok := j.before(m)
	switch {
	case !ok:
		return false
	case len(first) == 0:
		return true
	}
	return len(first) == 1 && slices.ContainsFunc(j.Manifests, func(m *manifest.Manifest) bool {
		return m.BootManager != nil && m.BootManager.Authenticode[j.Bank] == first[0]
	})
}

// knownManager reports whether the boot manager that started the system of a manifest is also the
// reference's boot manager, which is the first program that the reference has in PCR 4.
func (j *judge) knownManager() bool {
	if len(j.meant) == 0 || j.Reference == nil {
		return false
	}
	first, ok := j.before(j.meant[0])
	was, known := programs(j.Reference.Events, nil)
	return ok && known && len(was) > 1 && len(first) == 1 && first[0] == was[0]
}

// ownLine reports whether PCR 12 is empty, or has only the command line that a manifest names.
func (j *judge) ownLine(m *manifest.Manifest) bool {
	if j.empty(linePCR) {
		return true
	}
	if slices.Contains(j.Unexplained, linePCR) {
		return false
	}
	lines := lineDigests(j.Bank, m.System.Cmdline)
	return !slices.ContainsFunc(eventsOf(j.Events, linePCR), func(e Event) bool { return !ofFirmware(e) && !slices.Contains(lines, e.Digest) })
}

// lineDigests returns the two digests that EFI programs may measure for a command line, which they
// hash in UTF-16, with or without a final zero.
func lineDigests(bank, line string) []string {
	h, ok := hashOf(bank)
	if !ok {
		return nil
	}
	var data []byte
	for _, unit := range utf16.Encode([]rune(line)) {
		data = binary.LittleEndian.AppendUint16(data, unit)
	}
	sum := func(b []byte) string { return hex.EncodeToString(digestOf(h, b)) }
	return []string{sum(data), sum(append(data, 0, 0))}
}

// ownFiles reports whether PCR 9 has nothing but the initial file system and the command line of
// the running system. The manifest states the command line. The digest of the initial file system
// is that of the section .initrd in PCR 11, and it is proven because the manifest states the value
// of PCR 11.
func (j *judge) ownFiles() bool {
	if j.empty(nvPCR) {
		return true
	}
	if slices.Contains(j.Unexplained, nvPCR) || slices.Contains(j.Unexplained, phasePCR) {
		return false
	}
	allowed := lineDigests(j.Bank, j.meant[0].System.Cmdline)
	for _, e := range eventsOf(j.Events, phasePCR) {
		if e.What == sections[".initrd"] {
			allowed = append(allowed, e.Digest)
		}
	}
	for _, e := range eventsOf(j.Events, nvPCR) {
		if !ofFirmware(e) && e.What != whatNV && !slices.Contains(allowed, e.Digest) {
			return false
		}
	}
	return true
}

// enrolled reports whether PCR 7 has exactly the Secure Boot variables of a manifest, with Secure
// Boot on. It ignores the events after the separator, which only say which of the keys allowed a
// program to start.
func (j *judge) enrolled(want *manifest.SecureBoot) bool {
	bank, ok := hashOf(j.Bank)
	if !ok || slices.Contains(j.Unexplained, secureBootPCR) || j.SecureBoot != "on" {
		return false
	}
	digests := map[string]string{"dbx": emptyVariable(bank, "dbx", imageSecurity)} // an image need not enrol a dbx
	for _, v := range want.Variables {
		digests[v.Name] = v.Events[j.Bank]
	}
	ended := false
	for _, e := range eventsOf(j.Events, secureBootPCR) {
		name, variable := strings.CutPrefix(e.What, whatSecureBoot)
		switch {
		case ofFirmware(e):
			ended = ended || e.What != whatSeparator
		case ended && strings.HasPrefix(e.What, whatAuthority):
		case ended, !variable:
			return false
		case name == "SecureBoot":
		case digests[name] == "" || digests[name] != e.Digest:
			return false
		default:
			delete(digests, name)
		}
	}
	delete(digests, "dbx")
	return ended && len(digests) == 0
}

// emptyVariable returns the digest of the event that firmware measures for a variable that has no
// value.
func emptyVariable(bank crypto.Hash, name string, owner guid) string {
	data := append([]byte{}, owner[:]...)
	data = binary.LittleEndian.AppendUint64(data, uint64(len(name)))
	data = binary.LittleEndian.AppendUint64(data, 0)
	for _, r := range name {
		data = append(data, byte(r), 0)
	}
	return hex.EncodeToString(digestOf(bank, data))
}
