package stick

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"gangway/device/console/access"
	"gangway/device/install/approval"
	"gangway/device/install/slots"
	"gangway/image"
	"gangway/wire"
	"gangway/wire/manifest/measure"
)

// The method `system` builds the installed system: one unified kernel image that is the same for
// all machines. If `debug` is true, the shell's password is derived from the join token. `limit` is
// the highest access level that the machine's console may have.
func (p *Parts) system(base []byte, token *wire.TokenFile, debug bool, limit access.Level) ([]byte, error) {
	files, err := p.systemFiles(token, debug)
	if err != nil {
		return nil, err
	}
	own, err := image.Initramfs(files)
	if err != nil {
		return nil, err
	}
	kernel, err := p.kernel()
	if err != nil {
		return nil, err
	}
	return p.signed(p.approved(image.UKI{
		Stub: p.Stub, Kernel: kernel, Initrd: image.Join(base, own),
		Cmdline:   console + "panic=5 oops=panic gangway.mode=system" + limitWord(limit) + p.pinWord(),
		OSRelease: osRelease("Gangway", "gangway", "1"),
	}))
}

// approved builds the image. If there is an Owner, the image contains the owner's approval of the
// image's value of PCR 11.
func (p *Parts) approved(u image.UKI) ([]byte, error) {
	if p.Owner == nil {
		return u.Build()
	}
	der, err := x509.MarshalPKIXPublicKey(p.Owner.Public())
	if err != nil {
		return nil, fmt.Errorf("image: the owner's key: %w", err)
	}
	u.PCRKey = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	b, err := u.Build()
	if err != nil {
		return nil, err
	}
	value, err := measure.PCR11(b, crypto.SHA256, "") // the stub does not measure the approval
	if err != nil {
		return nil, err
	}
	a, err := approval.Sign(p.Owner, value)
	if err != nil {
		return nil, err
	}
	if u.PCRSignatures, err = approval.Marshal([]approval.Approval{a}); err != nil {
		return nil, err
	}
	return u.Build()
}

// limitWord returns the word on the kernel's command line that limits the machine's console.
// Firmware measures the command line, and a signature covers it, so a person at the machine cannot
// remove the word unnoticed.
func limitWord(limit access.Level) string {
	if limit == access.Full {
		return ""
	}
	return " gangway.console=" + limit.String()
}

// pinWord returns the word on the kernel's command line that allows a PIN for the disk.
func (p *Parts) pinWord() string {
	if !p.DiskPIN {
		return ""
	}
	return " gangway.disk-pin=allow"
}

// System builds only the file of the installed system, for updates of machines. If the parts are
// the same, the file equals the system's file that Build puts on the stick. With a join token, the
// system has a shell. The shell's password is the same as in debug images that are built with this
// join token.
func System(p *Parts, token []byte, limit access.Level) ([]byte, error) {
	var t *wire.TokenFile
	if token != nil {
		var err error
		if t, err = wire.ParseTokenFile(token); err != nil {
			return nil, err
		}
	}
	base, err := p.base()
	if err != nil {
		return nil, err
	}
	b, err := p.system(base, t, t != nil, limit)
	if err != nil {
		return nil, err
	}
	return b, slots.Check(bytes.NewReader(b), int64(len(b))) // a machine makes the same check before it installs an update
}
