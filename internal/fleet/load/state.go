package load

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"gangway/wire"
)

// stateHeader is the first line of a state file. Each further line is a stateDevice. The file
// stores the onboarded devices of a hub, so that a later run need not onboard them again.
type stateHeader struct {
	Format   string `json:"format"` // stateFormat
	HubName  string `json:"hub-name"`
	Owner    string `json:"owner"`
	DeviceCA []byte `json:"device-ca"` // DER
}

type stateDevice struct {
	ID    string `json:"id"`
	Key   []byte `json:"key"`  // the private key on P-256, 32 bytes
	Cert  []byte `json:"cert"` // DER
	Trail bool   `json:"trail,omitempty"`
	Rev   int    `json:"rev,omitempty"`
}

// Made is a device that a test wrote into the hub's database as an onboarded device. Onboarding
// 100,000 devices takes long, and a test of their connections needs only their certificates.
type Made struct {
	ID   string
	Key  *ecdsa.PrivateKey
	Cert []byte // DER of the IDevID certificate
}

// SaveMade writes a state file with the devices `made`, which belong to the hub and the owner that
// `token` names. `deviceCA` is the DER of the hub's device CA.
func SaveMade(path string, token *wire.TokenFile, deviceCA []byte, made []Made) error {
	list := make([]*device, len(made))
	for i, m := range made {
		list[i] = &device{number: i, id: m.ID, key: m.Key, cert: m.Cert, ca: deviceCA}
	}
	return saveState(path, stateHeader{HubName: token.HubName, Owner: token.Owner}, list)
}

const stateFormat = "gangway-fleet devices 1"

// saveState writes the onboarded devices to a state file. If it fails, an existing file is
// unchanged.
func saveState(path string, h stateHeader, list []*device) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".gangway-fleet-") // mode 0600: the file has private keys
	if err != nil {
		return fmt.Errorf("save the devices: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fmt.Errorf("save the devices: %w", err)
		}
	}()
	w := bufio.NewWriterSize(f, 1<<16)
	out := json.NewEncoder(w)
	h.Format = stateFormat
	for _, d := range list {
		if d.id != "" {
			h.DeviceCA = d.ca
			break
		}
	}
	if err := out.Encode(h); err != nil {
		return err
	}
	for _, d := range list {
		if d.id == "" {
			continue
		}
		key, err := d.key.Bytes()
		if err != nil {
			return err
		}
		if err := out.Encode(stateDevice{ID: d.id, Key: key, Cert: d.cert, Trail: d.trail, Rev: d.rev}); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// loadState reads the devices of a state file. If the file does not exist, loadState returns no
// devices.
func loadState(path string, h stateHeader) ([]*device, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load the devices: %w", err)
	}
	defer f.Close()
	in := json.NewDecoder(bufio.NewReaderSize(f, 1<<16))
	var have stateHeader
	if err := in.Decode(&have); err != nil || have.Format != stateFormat {
		return nil, fmt.Errorf("load the devices: %s is not a state file of this version of gangway-fleet", path)
	}
	if have.HubName != h.HubName || have.Owner != h.Owner {
		return nil, fmt.Errorf("load the devices: the devices in %s belong to another hub or owner: use another file for --state", path)
	}
	var list []*device
	for {
		var s stateDevice
		if err := in.Decode(&s); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("load the devices: %s: device %d: %w", path, len(list)+1, err)
		}
		key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), s.Key)
		if err != nil {
			return nil, fmt.Errorf("load the devices: %s: device %d: %w", path, len(list)+1, err)
		}
		list = append(list, &device{number: len(list), id: s.ID, key: key, cert: s.Cert, ca: have.DeviceCA, trail: s.Trail, rev: s.Rev})
	}
	if len(list) > 0 {
		if _, err := x509.ParseCertificate(list[0].cert); err != nil {
			return nil, fmt.Errorf("load the devices: %s: %w", path, err)
		}
	}
	return list, nil
}
