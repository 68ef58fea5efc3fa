// Package eventlog makes crypto-agile event logs like those of UEFI firmware (PC Client Platform
// Firmware Profile, 10), and the PCR values that follow from them. It is for tests.
package eventlog

import (
	"crypto/sha256"
	"encoding/binary"
	"unicode/utf16"
)

// Event types.
const (
	NoAction           = 0x3
	Separator          = 0x4
	SCRTMVersion       = 0x8
	IPL                = 0xD
	EFIVariableDriver  = 0x80000001
	EFIBootApplication = 0x80000003
	EFIAction          = 0x80000007
	sha256ID           = 0x000B
	pcrs               = 16
)

// Event is one event of a log. Digest is the digest that the firmware extends into the PCR; nil
// means the SHA-256 of Data.
type Event struct {
	PCR    int
	Type   uint32
	Data   []byte
	Digest []byte
}

func (e Event) digest() []byte {
	if e.Digest != nil {
		return e.Digest
	}
	d := sha256.Sum256(e.Data)
	return d[:]
}

// Log lists the events of a boot, in order.
type Log []Event

// Bytes encodes the log, beginning with its header.
func (l Log) Bytes() []byte {
	le := binary.LittleEndian
	header := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0) // platformClass: client
	header = append(header, 0, 2, 0, 2)                         // version 2.0, errata 0, uintnSize 2 (64 bits)
	header = le.AppendUint32(header, 1)
	header = le.AppendUint16(header, sha256ID)
	header = le.AppendUint16(header, sha256.Size)
	header = append(header, 0)
	out := le.AppendUint32(nil, 0)
	out = le.AppendUint32(out, NoAction)
	out = append(out, make([]byte, 20)...)
	out = le.AppendUint32(out, uint32(len(header)))
	out = append(out, header...)
	for _, e := range l {
		out = le.AppendUint32(out, uint32(e.PCR))
		out = le.AppendUint32(out, e.Type)
		out = le.AppendUint32(out, 1)
		out = le.AppendUint16(out, sha256ID)
		out = append(out, e.digest()...)
		out = le.AppendUint32(out, uint32(len(e.Data)))
		out = append(out, e.Data...)
	}
	return out
}

// PCRs returns the values of PCR 0 to 15 of the SHA-256 bank after all events.
func (l Log) PCRs() [][]byte {
	values := make([][]byte, pcrs)
	for i := range values {
		values[i] = make([]byte, sha256.Size)
	}
	for _, e := range l {
		d := sha256.Sum256(append(values[e.PCR], e.digest()...))
		values[e.PCR] = d[:]
	}
	return values
}

// Extend calls the function `f` with the PCR and the digest of each event, in order.
func (l Log) Extend(f func(pcr uint32, digest []byte) error) error {
	for _, e := range l {
		if err := f(uint32(e.PCR), e.digest()); err != nil {
			return err
		}
	}
	return nil
}

// UTF16 returns text in UTF-16 (little-endian) with a terminating zero, as firmware encodes it.
func UTF16(s string) []byte {
	var out []byte
	for _, u := range utf16.Encode([]rune(s + "\x00")) {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return out
}

// Variable returns the UEFI_VARIABLE_DATA of a global variable of UEFI, such as "SecureBoot".
func Variable(name string, data []byte) []byte {
	units := utf16.Encode([]rune(name))
	out := []byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c} // EFI_GLOBAL_VARIABLE
	out = binary.LittleEndian.AppendUint64(out, uint64(len(units)))
	out = binary.LittleEndian.AppendUint64(out, uint64(len(data)))
	for _, u := range units {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return append(out, data...)
}

// Boot returns the log of a machine with UEFI that boots a unified kernel image.
func Boot(secureBoot bool, kernel, commandLine string) Log {
	on := byte(0)
	if secureBoot {
		on = 1
	}
	image := sha256.Sum256([]byte("image of " + kernel + commandLine))
	l := Log{
		{PCR: 0, Type: SCRTMVersion, Data: UTF16("fw 1.2")},
		{PCR: 7, Type: EFIVariableDriver, Data: Variable("SecureBoot", []byte{on})},
		{PCR: 7, Type: EFIVariableDriver, Data: Variable("db", []byte("keys"))},
		{PCR: 4, Type: EFIAction, Data: []byte("Calling EFI Application from Boot Option")},
	}
	for pcr := range 8 {
		l = append(l, Event{PCR: pcr, Type: Separator, Data: make([]byte, 4)})
	}
	l = append(l, Event{PCR: 4, Type: EFIBootApplication, Data: make([]byte, 32), Digest: image[:]})
	for _, s := range []struct{ name, content string }{{".linux", kernel}, {".cmdline", commandLine}} {
		name, content := sha256.Sum256([]byte(s.name+"\x00")), sha256.Sum256([]byte(s.content))
		l = append(l, Event{PCR: 11, Type: IPL, Data: UTF16(s.name), Digest: name[:]}, Event{PCR: 11, Type: IPL, Data: UTF16(s.name), Digest: content[:]})
	}
	return l
}
