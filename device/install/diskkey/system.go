package diskkey

import (
	"bytes"
	"debug/pe"
	"encoding/hex"
	"fmt"

	"gangway/device/install/approval"
	"gangway/wire/manifest/measure"
)

// signatureSection is the section of a unified kernel image with the owner's approvals.
const signatureSection = ".pcrsig"

// ReadSystem reads what Bind needs to know about a system from its unified kernel image. An image
// without approvals is not an error.
func ReadSystem(uki []byte) (System, error) {
	m, err := measure.System(uki)
	if err != nil {
		return System{}, fmt.Errorf("diskkey: %w", err)
	}
	s := System{Cmdline: m.Cmdline}
	if s.Program, err = hex.DecodeString(m.Authenticode["SHA-256"]); err != nil {
		return System{}, fmt.Errorf("diskkey: %w", err)
	}
	if s.Kernel, err = hex.DecodeString(m.Kernel.Authenticode["SHA-256"]); err != nil {
		return System{}, fmt.Errorf("diskkey: %w", err)
	}
	if s.PCR11, err = hex.DecodeString(m.PCR11["SHA-256"][""]); err != nil {
		return System{}, fmt.Errorf("diskkey: %w", err)
	}
	f, err := pe.NewFile(bytes.NewReader(uki))
	if err != nil {
		return System{}, fmt.Errorf("diskkey: %w", err)
	}
	section := f.Section(signatureSection)
	if section == nil {
		return s, nil
	}
	if section.Size > approval.MaxSize {
		return System{}, fmt.Errorf("diskkey: the section %s has more than %d bytes", signatureSection, approval.MaxSize)
	}
	text, err := section.Data()
	if err != nil {
		return System{}, fmt.Errorf("diskkey: the section %s: %w", signatureSection, err)
	}
	s.Approvals, err = approval.Parse(text)
	return s, err
}
