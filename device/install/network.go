package install

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"gangway/device/install/netfile"
)

// NetworkPath is the path of the file with pending network settings, in an installed system's EFI
// system partition. Pending settings are settings that a stick has written and that the installed
// system has not read yet. The file always has netfile.MaxFile bytes, padded with line breaks, so
// that settings can be written without changing the file's size.
const NetworkPath = "gangway/" + netfile.Name

// Padded pads the text of a settings file to the size of the file NetworkPath.
func Padded(text string) ([]byte, error) {
	if len(text) > netfile.MaxFile {
		return nil, fmt.Errorf("install: the network settings have %d bytes; at most %d are allowed", len(text), netfile.MaxFile)
	}
	return append([]byte(text), bytes.Repeat([]byte("\n"), netfile.MaxFile-len(text))...), nil
}

// NoNetwork returns the content of the file NetworkPath if no settings are pending.
func NoNetwork() []byte {
	b, err := Padded("# A stick writes new network settings to this file. The system reads and clears them at its next start.\n")
	if err != nil {
		panic(err) // the text is shorter than netfile.MaxFile
	}
	return b
}

// network has the network settings that an installation writes.
type network struct {
	at      int64  // offset in the part "esp", in bytes; 0: the image has no file for settings
	text    []byte // the bytes to write there
	onStick []byte // the stick's bytes at the same offset, which the method `verify` hashes
}

// The method `settings` returns the network settings that this job writes, padded to the size of
// the settings file. If the job has no network settings, the result is the settings file on the
// stick.
func (j Job) settings() (n network, err error) {
	n.at = j.Manifest.Network
	switch {
	case n.at == 0 && j.Network != nil:
		return n, errors.New("install: this image does not support network settings: build it again with this version of gangway")
	case n.at == 0:
		return n, nil
	}
	n.onStick = NoNetwork()
	n.text = n.onStick // the method `verify` will copy the stick's bytes to this slice
	if j.Network != nil {
		n.text, err = Padded(j.Network.Text())
	}
	return n, err
}

// overlap finds the bytes of `b` that belong to the settings file. `b` has bytes of the partition
// `p`, from the offset `at`, and `content` is the content of a whole settings file. overlap returns
// the part of `b` that lies in the settings file (`in`), and the part of `content` at the same
// position (`of`). Both are nil if `b` does not overlap the settings file.
func (n *network) overlap(p place, at int64, b, content []byte) (in, of []byte) {
	if n.at == 0 || p.Name != ESP {
		return nil, nil
	}
	from, to := max(at, n.at), min(at+int64(len(b)), n.at+netfile.MaxFile)
	if from >= to {
		return nil, nil
	}
	return b[from-at : to-at], content[from-n.at : to-n.at]
}

// ReadNetwork reads the network settings from the stick whose EFI system partition is mounted at
// `stick`. If the stick has no settings file, the settings are empty. If the file is not valid, the
// error is a *netfile.Mistake.
func ReadNetwork(stick string) (*netfile.Settings, error) {
	return readNetwork(filepath.Join(stick, netfile.Name))
}

// ReadPendingNetwork reads the pending network settings from the EFI system partition of an
// installed system.
func ReadPendingNetwork(esp string) (*netfile.Settings, error) {
	return readNetwork(filepath.Join(esp, NetworkPath))
}

func readNetwork(name string) (*netfile.Settings, error) {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return &netfile.Settings{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("install: network settings: %w", err)
	}
	defer f.Close()
	return netfile.Read(f)
}

// WritePendingNetwork writes pending network settings to the EFI system partition of an installed
// system. It writes the file's first sector last, because the file is not valid without that
// sector. So a power cut leaves either all of the settings or no settings.
func WritePendingNetwork(esp string, s *netfile.Settings) error {
	text, err := Padded(s.Text())
	if err != nil {
		return err
	}
	return replaceNetwork(esp, text)
}

// ClearPendingNetwork removes the pending network settings, after the system has read them.
func ClearPendingNetwork(esp string) error { return replaceNetwork(esp, NoNetwork()) }

// replaceNetwork overwrites the file in place. FAT has no journal, so a change of the file's name
// or size would not be safe in a power cut.
func replaceNetwork(esp string, text []byte) error {
	f, err := os.OpenFile(filepath.Join(esp, NetworkPath), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("install: network settings: %w", err)
	}
	for _, piece := range []struct {
		at   int64
		text []byte
	}{{0, NoNetwork()[:largeSector]}, {largeSector, text[largeSector:]}, {0, text[:largeSector]}} {
		if err == nil {
			_, err = f.WriteAt(piece.text, piece.at)
		}
		if err == nil {
			err = f.Sync()
		}
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("install: network settings: %w", err)
	}
	return nil
}
