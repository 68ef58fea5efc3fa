package boot

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"

	"gangway/tcg"
	"gangway/tcg/eventlog"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

const secureBootPCR = 7

// separators are the events that mark the end of the firmware's own events in a PCR (PC Client
// Platform Firmware Profile, 10.4.1).
var separators = []struct {
	data []byte
	what string
}{
	{[]byte{0, 0, 0, 0}, "the separator in PCR %d"},
	{[]byte{0xFF, 0xFF, 0xFF, 0xFF}, "the separator in PCR %d"},
	{[]byte{1, 0, 0, 0}, "the separator in PCR %d that reports a firmware error"},
}

const likeSeparator = "the same as the separator in PCR %d"

// sections describes the sections of a unified kernel image. For each section, systemd's stub
// measures first the name, with a trailing zero byte, and then the content.
var sections = map[string]string{
	".linux": "the kernel", ".initrd": "the initial RAM disk", ".cmdline": "the kernel command line", ".osrel": "the image's description",
	".uname": "the kernel's version", ".dtb": "the device tree", ".splash": "the splash screen", ".ucode": "the processor's microcode",
	".sbat": "the stub's generation", ".pcrpkey": "the key for PCR policies", ".profile": "the image's profile",
	".dtbauto": "the device tree of this hardware", ".hwids": "the list of hardware", ".efifw": "the firmware in the image",
}

const (
	whatCommandLine = "the kernel command line"
	whatSeparator   = "systemd's os-separator"
	whatPhase       = "systemd's boot phase"
	whatVersion     = "the firmware's version"
	whatPartitions  = "the disk's partition table"
	whatNV          = "systemd's nvpcr-separator"
	whatAuthority   = "Secure Boot authority "
	whatSecureBoot  = "Secure Boot variable "
)

// namer names the events of one PCR, in order. It uses only data that the events' digests prove.
type namer struct {
	pcr       int
	bank      crypto.Hash
	separated bool           // a separator has ended the firmware's events
	images    int            // number of events in PCR 4, so far, whose measured data is not known
	versioned bool           // the firmware's version was measured
	section   string         // a section of a unified kernel image; the next event measures the content of this section
	names     map[string]int // how often a section's name is measured
	ends      int            // how often a separator's digest occurs
}

// nameEvents describes the events of a PCR for a person: first the events of the log, and then the
// extensions `more`, which were made after the log ended. The descriptions depend only on what the
// PCR's value proves: the digests, their order, and the data that a digest covers. Data that no
// digest covers appears only in the field Label, and event types have no effect.
func nameEvents(pcr int, events []logEvent, more []string, bank crypto.Hash) (named []Event) {
	n := &namer{pcr: pcr, bank: bank, names: make(map[string]int)}
	for _, e := range events {
		if name := n.sectionName(e); name != "" {
			n.names[name]++
		}
		if s, ok := n.separator(e); ok && s == separators[0].what {
			n.ends++
		}
	}
	for _, e := range events {
		named = append(named, n.name(e))
	}
	if pcr == 8 {
		nameCommandLine(named)
	}
	for _, w := range more {
		named = append(named, n.afterLog(w))
	}
	return named
}

// afterLog returns an Event for an extension that is not in the log because it was made after the
// log ended. It extended the PCR by the hash of `word`.
func (n *namer) afterLog(word string) Event {
	e := Event{PCR: n.pcr, What: whatPhase, Digest: hex.EncodeToString(digestOf(n.bank, []byte(word))), Text: word}
	switch {
	case word == osSeparator:
		e.What = whatSeparator
	case word == nvSeparator:
		e.What = whatNV
	case n.pcr == exitPCR:
		e.What = fmt.Sprintf("the firmware's step %q", word)
	}
	return e
}

// name returns the Event that describes one event of the log.
func (n *namer) name(e logEvent) Event {
	out := Event{PCR: n.pcr, Digest: hex.EncodeToString(e.digest)}
	section := n.section
	n.section = ""
	if s, ok := n.separator(e); ok {
		out.What = fmt.Sprintf(s, n.pcr)
		if n.ends > 1 && s == separators[0].what {
			out.What = fmt.Sprintf(likeSeparator, n.pcr) // several events have the separator's digest, so the separator itself is not known
		}
		n.separated = true
		return out
	}
	if name := n.sectionName(e); name != "" {
		out.What, out.Text = "the section name "+name, name
		if n.section = name; n.names[name] > 1 {
			n.section = "" // the name is measured twice, so the content is ambiguous
		}
		return out
	}
	if section != "" {
		out.What = sections[section]
		return out
	}
	data, measured := n.measured(e)
	if !measured {
		data = e.data
	}
	v, isVariable := eventlog.ParseVariable(data)
	switch {
	case measured && isVariable:
		n.variable(&out, v)
	case measured:
		n.data(&out, data)
	case isVariable && n.pcr == menuPCR && isDigestOf(e, v.Value, n.bank):
		// EV_EFI_VARIABLE_BOOT: the digest covers the value but not the name.
		n.menu(&out, v)
	default:
		n.opaque(&out, e, v, isVariable)
	}
	return out
}

// measured returns the data that an event measured, and reports whether the event's digest proves
// this data. The data in the log may lack a final zero byte, or have additional zero bytes at the
// end: old versions of systemd-boot measure a text with its final zero but log it without, and some
// firmware pads log entries to a fixed size with zeros.
func (n *namer) measured(e logEvent) ([]byte, bool) {
	if isDigestOf(e, e.data, n.bank) {
		return e.data, true
	}
	if len(e.data)%2 == 1 {
		if whole := append(slices.Clone(e.data), 0); isDigestOf(e, whole, n.bank) {
			return whole, true
		}
	}
	trimmed := bytes.TrimRight(e.data, "\x00")
	return trimmed, len(trimmed) > 0 && isDigestOf(e, trimmed, n.bank)
}

func (n *namer) separator(e logEvent) (what string, ok bool) {
	for _, s := range separators {
		if isDigestOf(e, s.data, n.bank) {
			return s.what, true
		}
	}
	return "", false
}

// sectionName returns the section name that an event measured, or "" if the event measured
// something else.
func (n *namer) sectionName(e logEvent) string {
	if n.pcr != phasePCR {
		return ""
	}
	for name := range sections {
		if isDigestOf(e, append([]byte(name), 0), n.bank) {
			return name
		}
	}
	return ""
}

// variable describes an event whose digest covers the owner, the name and the value of a firmware
// variable (UEFI_VARIABLE_DATA).
func (n *namer) variable(out *Event, v eventlog.Variable) {
	name := v.Name
	if tcg.Printable(name) != name {
		name = strconv.QuoteToASCII(name) // an unusual character could make the name look like another one
	}
	switch {
	case n.pcr == secureBootPCR && (n.separated || v.Vendor == imageSecurity && isSignature(v.Value)):
		out.What = whatAuthority + name
	case n.pcr == secureBootPCR:
		out.What = whatSecureBoot + name
		if v.Vendor == globalVariable && v.Name == "SecureBoot" {
			out.Text = secureBootValue(v.Value)
		} else if v.Name == "SecureBoot" {
			out.What = fmt.Sprintf("another owner's variable %s (%x)", name, v.Vendor)
		}
	default:
		out.What = "firmware variable " + name
		if n.pcr == menuPCR && v.Vendor == globalVariable {
			out.Text = menuText(out.What, v.Value)
		}
	}
}

// isSignature reports whether a value is a single entry of a signature database such as db
// (EFI_SIGNATURE_DATA: the owner's GUID and a certificate), and not a whole database, which is a
// list of lists. When an image starts, firmware measures the entry that allowed it. If the image is
// a driver in an option ROM, this event comes before the separator, as do the events for the whole
// databases.
func isSignature(value []byte) bool {
	const owner = 16
	if len(value) <= owner {
		return false
	}
	rest := cryptobyte.String(value[owner:])
	var certificate cryptobyte.String
	return rest.ReadASN1Element(&certificate, asn1.SEQUENCE) && rest.Empty()
}

// menu describes an event whose digest covers the value of a variable of the boot menu, but not the
// variable's name.
func (n *namer) menu(out *Event, v eventlog.Variable) {
	named := "firmware variable " + v.Name
	out.Text = menuText(named, v.Value)
	switch {
	case out.Text == "":
		out.What = n.something()
	case named == bootOrder:
		out.What = whatOrder
	default:
		out.What = whatEntry
	}
	out.Label = printable512(named)
}

func secureBootValue(value []byte) string {
	switch {
	case len(value) == 1 && value[0] == 1:
		return "on"
	case len(value) == 0, len(value) == 1 && value[0] == 0:
		return "off" // without a value the variable does not exist
	}
	return hex.EncodeToString(value[:min(len(value), 8)])
}

// data describes an event whose digest proves its data.
func (n *namer) data(out *Event, data []byte) {
	text, printable := asText(data)
	utf16 := printable && len(data) > 1 && data[1] == 0
	switch {
	case n.pcr == 0 && !n.separated && !n.versioned && (utf16 || len(data) == 16 || len(data) == 2 && data[0] == 0):
		// EV_S_CRTM_VERSION: text, a GUID, or an empty text.
		out.What, out.Text = whatVersion, textOrHex(data)
		n.versioned = true
	case (n.pcr == 8 || n.pcr == 12) && isUTF16(data):
		out.What, out.Text = whatCommandLine, textOrHex(data)
	case n.pcr == 5 && bytes.HasPrefix(data, []byte("EFI PART")):
		out.What = whatPartitions
	case printable && n.pcr < firmwarePCRs && isStep(text):
		out.What, out.Text = fmt.Sprintf("the firmware's step %q", text), text
	case n.pcr == 4 && !printable:
		out.What = n.image()
	case printable:
		out.What, out.Text = n.something(), text
	default:
		out.What = n.something()
	}
}

// steps are the texts of the firmware's actions. Firmware measures an action by its text
// (EV_EFI_ACTION, PC Client Platform Firmware Profile, 10.4.4).
var steps = []string{
	"Calling EFI Application from Boot Option", "Returning from EFI Application from Boot Option",
	exitInvoked, exitSucceeded, exitFailed, "Start Option ROM Scan",
	"UEFI Debug Mode", "DMA Protection Disabled", "Entering ROM Based Setup", "Calling INT 19h", "Returned INT 19h", "Return via INT 18h",
}

func isStep(text string) bool {
	return slices.Contains(steps, text) || strings.HasPrefix(text, "Booting to ") && strings.HasSuffix(text, " Option")
}

// opaque describes an event whose digest does not prove the data in the log. The description
// depends on the event's PCR and position. If a boot loader wrote the data with a prefix, and the
// digest covers the text after the prefix, opaque uses this text too.
func (n *namer) opaque(out *Event, e logEvent, v eventlog.Variable, isVariable bool) {
	if text, ok := dataAfterPrefix(e, n.bank); ok && n.pcr == 8 {
		out.What, out.Text = "a command of the boot loader", textOrHex(text)
		return
	}
	switch {
	case n.pcr == 0 && !n.separated:
		out.What = "the firmware"
	case n.pcr == 4:
		out.What = n.image()
	default:
		out.What = n.something()
	}
	if isVariable {
		out.Label = printable512("firmware variable " + v.Name)
	} else {
		out.Label = label(e.data)
	}
}

func (n *namer) image() string {
	if n.images++; n.images > 1 {
		return fmt.Sprintf("boot image %d", n.images)
	}
	return "the boot image"
}

func (n *namer) something() string {
	if n.pcr < firmwarePCRs {
		return fmt.Sprintf("something in PCR %d", n.pcr)
	}
	return fmt.Sprintf("something that the boot loader measured into PCR %d", n.pcr)
}

// dataAfterPrefix returns the data that a boot loader measured, if the log has this data after a
// prefix. GRUB measures a command, but logs "grub_cmd: " and the command. Older versions log
// "grub_cmd " or "grub_kernel_cmdline " before the command.
func dataAfterPrefix(e logEvent, bank crypto.Hash) ([]byte, bool) {
	rest := e.data
	for range 2 { // a prefix has one or two words
		var ok bool
		if _, rest, ok = bytes.Cut(rest, []byte(" ")); !ok {
			break
		}
		for _, text := range [][]byte{bytes.TrimSuffix(rest, []byte{0}), rest} {
			if isDigestOf(e, text, bank) {
				return text, true
			}
		}
	}
	return nil, false
}

// nameCommandLine finds the kernel's command line among the events that GRUB measured into PCR 8.
// In the log, a prefix says what each text is, but no digest covers the prefix. So nameCommandLine
// looks for the command that loads a kernel, which GRUB measures too: "linux " followed by the
// command line. If PCR 8 has no such command, the command line is the text that begins with a path,
// provided that every event in the PCR is known and none of them loads a module.
func nameCommandLine(events []Event) {
	loads := map[string]string{} // the file that a command loads; the key is the text after the command
	allKnown, modules := true, false
	for _, e := range events {
		verb, rest, _ := strings.Cut(e.Text, " ")
		switch verb {
		case "linux", "linuxefi", "linux16", "kernel", "multiboot", "multiboot2", "xen_hypervisor":
			loads[rest] = whatCommandLine
		case "module", "module2", "xen_module":
			loads[rest] = "a module's command line"
			modules = true
		}
		allKnown = allKnown && (e.Text != "" || strings.HasPrefix(e.What, "the separator"))
	}
	for i := range events {
		e := &events[i]
		switch what := loads[e.Text]; {
		case e.Text == "":
		case what != "":
			e.What = what
		case allKnown && !modules && len(loads) == 0 && (strings.HasPrefix(e.Text, "/") || strings.HasPrefix(e.Text, "(")):
			e.What = whatCommandLine
		}
	}
}

// crossName names the event in PCR 9 that has the digest of a known command line. The boot manager
// measures the command line into PCR 12, and later the kernel's stub measures the same command line
// into PCR 9.
func (m *Measurement) crossName() {
	lines := map[string]string{}
	for _, e := range m.Events {
		if e.What == whatCommandLine && e.Text != "" {
			lines[e.Digest] = e.Text
		}
	}
	for i := range m.Events {
		if e := &m.Events[i]; e.PCR == 9 && lines[e.Digest] != "" {
			e.What, e.Text, e.Label = whatCommandLine, lines[e.Digest], ""
			delete(lines, e.Digest) // name only one event by this digest, so that the measurement does not become much larger than the log
		}
	}
}

// secureBoot returns the state of Secure Boot from the events of PCR 7, which the log must explain.
// Only the firmware can extend PCR 7 before the separator. After it, a program could extend PCR 7
// with false events that look like an enabled Secure Boot. So secureBoot must recognize every event
// up to the separator by its digest, and each variable must occur only once.
func secureBoot(events []Event) string {
	state := stateUnknown
	var seen []string
	for _, e := range events {
		switch {
		case e.PCR != secureBootPCR:
		case e.What == fmt.Sprintf(separators[0].what, secureBootPCR), e.What == fmt.Sprintf(likeSeparator, secureBootPCR):
			return state
		case e.What == whatSecureBoot+"SecureBoot":
			if slices.Contains(seen, e.What) {
				state = stateTwice
			} else if e.Text == "on" || e.Text == "off" {
				state = e.Text
			} else {
				return stateUnknown
			}
			seen = append(seen, e.What)
		case strings.HasPrefix(e.What, whatSecureBoot):
			if slices.Contains(seen, e.What) {
				return stateUnknown
			}
			seen = append(seen, e.What)
		case strings.HasPrefix(e.What, "another owner's variable "), strings.HasPrefix(e.What, whatAuthority), strings.HasPrefix(e.What, "the firmware's step "):
		default:
			return stateUnknown
		}
	}
	return stateUnknown // no separator ends the firmware's events
}

// stateTwice is the state of Secure Boot if the variable SecureBoot was measured more than once. No
// firmware measures this variable twice.
const stateTwice = "told more than once"

func isDigestOf(e logEvent, data []byte, bank crypto.Hash) bool {
	return bytes.Equal(digestOf(bank, data), e.digest)
}

// label returns the log's own description of an event, which no digest covers: the event's data if
// it is text, or the text in a tagged event (TCG_PCClientTaggedEvent).
func label(data []byte) string {
	if s, ok := asText(data); ok {
		return printable512(s)
	}
	const head = 4 + 4
	if len(data) > head && uint64(le32(data[4:])) == uint64(len(data)-head) {
		if s, ok := asText(data[head:]); ok {
			return printable512(s)
		}
	}
	return ""
}

// maxText is the maximum size of a text that asText returns, in bytes.
const maxText = 2048

func isUTF16(data []byte) bool {
	return len(data) >= 2 && len(data)%2 == 0 && data[0] != 0 && data[1] == 0
}

// asText returns UTF-16 or UTF-8 data as text, without a final zero. The result `ok` is false if
// the data has another encoding, or if the text is empty, is longer than maxText, or contains a
// zero, a control character or a bidirectional character, any of which could hide a part of a
// command line on a screen.
func asText(data []byte) (s string, ok bool) {
	s = string(data)
	if isUTF16(data) {
		units := make([]uint16, len(data)/2)
		for i := range units {
			units[i] = binary.LittleEndian.Uint16(data[2*i:])
		}
		s = string(utf16.Decode(units))
	}
	s = strings.TrimSuffix(s, "\x00")
	return s, s != "" && len(s) <= maxText && tcg.Printable(s) == s
}

// textOrHex returns data as text or, if it is not text, in hexadecimal.
func textOrHex(data []byte) string {
	if s, ok := asText(data); ok {
		return s
	}
	if len(data) > 64 {
		return fmt.Sprintf("%x… (%d bytes)", data[:64], len(data))
	}
	return hex.EncodeToString(data)
}

// printable512 returns the printable characters of s, at most 512.
func printable512(s string) string {
	s = tcg.Printable(s)
	if r := []rune(s); len(r) > 512 {
		s = string(r[:512]) + "…"
	}
	return s
}
