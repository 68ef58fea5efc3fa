package boot

import (
	"bytes"
	"cmp"
	"crypto"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"

	"gangway/tcg"

	"github.com/google/go-eventlog/register"
	log "github.com/google/go-eventlog/tcg"
)

// replay fills in the events of the PCRs that the log explains.
func (m *Measurement) replay(e *Evidence) (err error) {
	clean, err := scan(e.Log)
	if err != nil {
		return refuse(CodeLog, fmt.Sprintf("The event log cannot be read: %v.", err))
	}
	// The library's parser is not ours: what it cannot take is a bad log.
	defer func() {
		if v := recover(); v != nil {
			err = refuse(CodeLog, "The event log cannot be read.")
		}
	}()
	parsed, err := log.ParseEventLog(clean, log.ParseOpts{})
	if err != nil {
		return refuse(CodeLog, fmt.Sprintf("The event log cannot be read: %v.", err))
	}
	bank, err := e.Bank.Hash()
	if err != nil {
		return err
	}
	var events []log.Event
	for i, value := range e.PCRs {
		of, err := parsed.Verify([]register.MR{register.PCR{Index: i, Digest: value, DigestAlg: bank}})
		// Without events the library takes any value; the empty log explains
		// the one after a reset.
		if err != nil || len(of) == 0 && !isZero(value) {
			if i < firstOfTheSystem {
				return refuse(CodeLog, fmt.Sprintf("The event log does not explain PCR %d: it is not the log of this boot.", i))
			}
			m.Unexplained = append(m.Unexplained, i)
			continue
		}
		events = append(events, of...)
	}
	slices.SortStableFunc(events, func(a, b log.Event) int { return cmp.Compare(a.Num(), b.Num()) })
	m.name(events, bank)
	return nil
}

// name says for a person what each event measured. The types and data are the
// device's word; text is kept only where its digest shows that it was measured.
func (m *Measurement) name(events []log.Event, bank crypto.Hash) {
	section := "" // of a unified kernel image: its content follows its name
	images := 0
	separated := false // PCR 7 has its separator
	for _, e := range events {
		n := Event{PCR: e.Index, Digest: hex.EncodeToString(e.Digest)}
		switch e.Type {
		case log.Separator:
			n.What = fmt.Sprintf("the separator in PCR %d", e.Index)
			separated = separated || e.Index == 7
		case log.SCRTMVersion:
			n.What = "the firmware's version"
			n.Text = measuredText(e, bank)
		case log.EFIPlatformFirmwareBlob, log.EFIPlatformFirmwareBlob2, log.SCRTMContents, log.PostCode:
			n.What = "the firmware"
		case log.EFIVariableDriverConfig, log.EFIVariableBoot, log.EFIVariableBoot2, log.EFIVariableAuthority:
			m.nameVariable(&n, e, bank, separated)
		case log.EFIBootServicesApplication:
			images++
			n.What = "the boot image"
			if images > 1 {
				n.What = fmt.Sprintf("boot image %d", images)
			}
		case log.EFIBootServicesDriver, log.EFIRuntimeServicesDriver:
			n.What = "a firmware driver"
		case log.EFIGPTEvent:
			n.What = "the disk's partition table"
		case log.EFIAction:
			n.What = "a step of the firmware"
			if n.Text = measuredText(e, bank); n.Text != "" {
				n.What = fmt.Sprintf("the firmware's step %q", n.Text)
			}
		case log.Ipl:
			section = n.nameIPL(e, bank, section)
		case log.EventTag:
			n.What = "something that the kernel's loader measured"
			if t, err := log.ParseTaggedEventData(e.Data); err == nil {
				switch t.ID {
				case 0x8F3B22EC: // LINUX_EFI_INITRD, as the kernel's stub writes it
					n.What = "the initial RAM disk"
				case 0x8F3B22ED: // LINUX_EFI_LOADED_IMAGE_LOAD_OPTIONS
					n.What = "the kernel command line"
				}
			}
		default:
			n.What = fmt.Sprintf("something in PCR %d (%v)", e.Index, e.Type)
		}
		m.Events = append(m.Events, n)
	}
}

// nameVariable names a firmware variable, and reads Secure Boot's state where
// the digest shows that it is what was measured. Whoever runs later can extend
// PCR 7 by the words of a Secure Boot that is on: so it counts before the
// separator, which ends the firmware's part, and if it is there once.
func (m *Measurement) nameVariable(n *Event, e log.Event, bank crypto.Hash, separated bool) {
	v, ok := parseVariable(e.Data)
	if !ok {
		n.What = fmt.Sprintf("a firmware variable in PCR %d", n.PCR)
		return
	}
	name := tcg.Printable(v.name)
	switch {
	case e.Type == log.EFIVariableAuthority:
		n.What = fmt.Sprintf("the key that allowed a boot image (%s)", name)
	case n.PCR == 7:
		n.What = "Secure Boot variable " + name
	default:
		n.What = "firmware variable " + name
	}
	if n.PCR == menuPCR && v.owner == globalVariable && (isDigestOf(e, v.value, bank) || isDigestOf(e, e.Data, bank)) {
		n.Text = menuText(n.What, v.value)
	}
	if n.PCR != 7 || e.Type != log.EFIVariableDriverConfig || v.name != "SecureBoot" || v.owner != globalVariable || separated || !isDigestOf(e, e.Data, bank) {
		return
	}
	if n.Text = "off"; len(v.value) == 1 && v.value[0] == 1 {
		n.Text = "on"
	}
	if m.SecureBoot != notTold {
		m.SecureBoot = toldTwice
		return
	}
	m.SecureBoot = n.Text
}

// toldTwice is the state of a Secure Boot whose variable was measured more than
// once, which no firmware does.
const toldTwice = "told more than once"

// sections of a unified kernel image, as systemd's stub measures them.
var sections = map[string]string{
	".linux": "the kernel", ".initrd": "the initial RAM disk", ".cmdline": "the kernel command line", ".osrel": "the image's description",
	".uname": "the kernel's version", ".dtb": "the device tree", ".splash": "the splash screen", ".ucode": "the processor's microcode",
	".sbat": "the stub's generation", ".pcrpkey": "the key for PCR policies",
}

// nameIPL names what a boot loader measured. It returns the section whose
// content is measured next.
func (n *Event) nameIPL(e log.Event, bank crypto.Hash, section string) string {
	text := utf16Text(e.Data)
	what, known := sections[text]
	switch {
	case n.PCR == 11 && known && isDigestOf(e, append([]byte(text), 0), bank):
		n.What = "the section name " + text
		n.Text = text
		return text
	case n.PCR == 11 && known && text == section:
		n.What = what
	case n.PCR == 12 && text != "":
		n.What = "the kernel command line"
		n.Text = measuredText(e, bank)
	case n.PCR == 8 || n.PCR == 9:
		n.What = fmt.Sprintf("something that the boot loader measured into PCR %d", n.PCR)
		// GRUB hashes what follows its own words.
		plain := strings.TrimRight(string(e.Data), "\x00")
		for _, prefix := range []string{"kernel_cmdline: ", "module_cmdline: ", "grub_cmd: "} {
			if rest, ok := strings.CutPrefix(plain, prefix); ok && isDigestOf(e, []byte(rest), bank) {
				n.Text = whole([]byte(rest))
				if n.What = "the kernel command line"; prefix != "kernel_cmdline: " {
					n.What = fmt.Sprintf("a %s", strings.TrimSuffix(prefix, ": "))
				}
			}
		}
		if n.PCR == 9 && n.Text == "" && plain != "" {
			n.What = fmt.Sprintf("a file that the boot loader read (%s)", bounded(plain))
		}
	default:
		n.What = fmt.Sprintf("something that the boot loader measured into PCR %d", n.PCR)
	}
	return ""
}

func isDigestOf(e log.Event, data []byte, bank crypto.Hash) bool {
	d := bank.New()
	d.Write(data)
	return bytes.Equal(d.Sum(nil), e.Digest)
}

// measuredText is an event's data where it was measured.
func measuredText(e log.Event, bank crypto.Hash) string {
	if !isDigestOf(e, e.Data, bank) {
		return ""
	}
	return whole(e.Data)
}

// maxText bounds a text, in bytes.
const maxText = 2048

// whole shows data as text, UTF-16 or UTF-8, without its closing zero; in
// hexadecimal where it is neither, or where a screen would not show all of it:
// behind a zero, a control or a bidirectional character there could be another
// command line than the one that is read.
func whole(data []byte) string {
	s := string(data)
	if len(data) >= 2 && len(data)%2 == 0 && data[0] != 0 && data[1] == 0 {
		units := make([]uint16, len(data)/2)
		for i := range units {
			units[i] = binary.LittleEndian.Uint16(data[2*i:])
		}
		s = string(utf16.Decode(units))
	}
	s = strings.TrimSuffix(s, "\x00")
	if s != "" && len(s) <= maxText && tcg.Printable(s) == s {
		return s
	}
	if len(data) > 64 {
		return fmt.Sprintf("%x… (%d bytes)", data[:64], len(data))
	}
	return hex.EncodeToString(data)
}

// utf16Text decodes little-endian UTF-16 that ends with a zero.
func utf16Text(b []byte) string {
	if len(b) < 2 || len(b)%2 != 0 {
		return ""
	}
	units := make([]uint16, 0, len(b)/2)
	for i := 0; i < len(b); i += 2 {
		u := binary.LittleEndian.Uint16(b[i:])
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return bounded(string(utf16.Decode(units)))
}

// bounded keeps what a screen may show of it.
func bounded(s string) string {
	s = tcg.Printable(s)
	if r := []rune(s); len(r) > 512 {
		s = string(r[:512]) + "…"
	}
	return s
}
