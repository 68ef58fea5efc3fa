package stick

import (
	"bytes"

	"gangway/device/install/slots"
	"gangway/image"
	"gangway/wire"
)

// system is the installed system: all of it is one unified kernel image, and
// nothing in it is of one machine. The token is for the console's password
// alone.
func (p *Parts) system(base []byte, token *wire.TokenFile, debug bool) ([]byte, error) {
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
	return p.signed(image.UKI{
		Stub: p.Stub, Kernel: kernel, Initrd: image.Join(base, own),
		Cmdline:   console + "panic=5 oops=panic gangway.mode=system",
		OSRelease: osRelease("Gangway", "gangway", "1"),
	}.Build())
}

// System makes an installed system's file alone, to update machines with: the
// same as Build installs with the same parts. A token gives it a console with
// the password of images that were made for debugging with that token.
func System(p *Parts, token []byte) ([]byte, error) {
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
	b, err := p.system(base, t, t != nil)
	if err != nil {
		return nil, err
	}
	return b, slots.Check(bytes.NewReader(b), int64(len(b))) // as the machines will
}
