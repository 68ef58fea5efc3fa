package install

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"gangway/device/install/netfile"
)

// NetworkPath is where an installed system's EFI system partition has the
// settings that a stick brought, until the system has taken them over. The file
// has netfile.MaxFile bytes: settings are followed by line breaks, so that they
// are written in its place.
const NetworkPath = "gangway/" + netfile.Name

// Padded is a settings file's text with the size that NetworkPath has.
func Padded(text string) ([]byte, error) {
	if len(text) > netfile.MaxFile {
		return nil, fmt.Errorf("install: the network settings have %d bytes, at most %d are possible", len(text), netfile.MaxFile)
	}
	return append([]byte(text), bytes.Repeat([]byte("\n"), netfile.MaxFile-len(text))...), nil
}

// NoNetwork is NetworkPath's content where there are no settings.
func NoNetwork() []byte {
	b, err := Padded("# Network settings that a stick brings stand here until the system takes them over.\n")
	if err != nil {
		panic(err) // it is shorter
	}
	return b
}

// network are the settings that an installation writes.
type network struct {
	at    int64  // in the part esp; 0: nowhere
	text  []byte // as they are written
	stick []byte // as the stick has the place, which verify hashes
}

// settings pads the job's settings. Without any, the place is as on the stick.
func (j Job) settings() (n network, err error) {
	n.at = j.Manifest.Network
	switch {
	case n.at == 0 && j.Network != nil:
		return n, errors.New("install: this stick's systems take no network settings: build the image again")
	case n.at == 0:
		return n, nil
	}
	n.stick = NoNetwork()
	n.text = n.stick // which verify fills
	if j.Network != nil {
		n.text, err = Padded(j.Network.Text())
	}
	return n, err
}

// part is what b, which is at an offset of a part, has of the settings' place,
// and the same piece of a content for it. Nil: nothing.
func (n *network) part(p place, at int64, b, content []byte) (in, of []byte) {
	if n.at == 0 || p.Name != ESP {
		return nil, nil
	}
	from, to := max(at, n.at), min(at+int64(len(b)), n.at+netfile.MaxFile)
	if from >= to {
		return nil, nil
	}
	return b[from-at : to-at], content[from-n.at : to-n.at]
}

// ReadNetwork reads the network settings of a stick, whose EFI system partition
// is mounted. Without the file there are none. A file that cannot be read as
// settings is a *netfile.Mistake.
func ReadNetwork(stick string) (*netfile.Settings, error) {
	return readNetwork(filepath.Join(stick, netfile.Name))
}

// BroughtNetwork reads the settings that a stick has brought to the EFI system
// partition of an installed system.
func BroughtNetwork(esp string) (*netfile.Settings, error) {
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
	text, err := io.ReadAll(io.LimitReader(f, netfile.MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("install: network settings: %w", err)
	}
	return netfile.Parse(text)
}

// BringNetwork writes settings to the EFI system partition of a system that is
// installed already, for it to take over. The file's first sector, without which
// nothing is read in it, is written last: a power cut leaves all or nothing.
func BringNetwork(esp string, s *netfile.Settings) error {
	text, err := Padded(s.Text())
	if err != nil {
		return err
	}
	return replaceNetwork(esp, text)
}

// TakenNetwork empties the file of settings that the system has taken over.
func TakenNetwork(esp string) error { return replaceNetwork(esp, NoNetwork()) }

// replaceNetwork writes to where the file is: FAT has no journal, so no name or
// size changes.
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
