package stick

import (
	"bytes"

	"gangway/device/install/slots"
	"gangway/image"
	"gangway/wire"
)

// system builds the installed system: one unified kernel image that is the same for all machines.
// If debug is set, the console's password is derived from the token.
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

// System builds only the file of the installed system, for updates of machines. The file equals the
// one that Build puts on the stick, if the parts are the same. With a token, the system has a
// console. Its password is the same as in debug images that are built with this token.
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
	return b, slots.Check(bytes.NewReader(b), int64(len(b))) // a machine makes the same check before it installs an update
}
