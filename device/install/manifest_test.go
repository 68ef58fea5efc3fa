package install

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestManifestRoundTrip(t *testing.T) {
	t.Parallel()
	m, _, _ := smallStick(t)
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseManifest(b)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := json.Marshal(got); !bytes.Equal(again, b) {
		t.Errorf("after a round trip: %.200s; want %.200s", again, b)
	}
}

// ParseManifest refuses a manifest with values out of bounds. Otherwise the installer could write
// to a wrong place on the disk.
func TestRefusesManifestsThatLie(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Manifest){
		"version":          func(m *Manifest) { m.Version = 2 },
		"a secret escrow":  func(m *Manifest) { m.Escrow = "AGE-SECRET-KEY-1QQQ" },
		"no escrow":        func(m *Manifest) { m.Escrow = "age1qqq" },
		"wipes, installs":  func(m *Manifest) { m.Reset = true },
		"wipes a disk":     func(m *Manifest) { *m = Manifest{Version: 1, Reset: true, Disk: Largest} },
		"wipes, version":   func(m *Manifest) { *m = Manifest{Version: 2, Reset: true} },
		"rule":             func(m *Manifest) { m.Disk = "/dev/../sda" },
		"no data":          func(m *Manifest) { m.Parts = m.Parts[:1] },
		"other order":      func(m *Manifest) { m.Parts[0], m.Parts[1] = m.Parts[1], m.Parts[0] },
		"a third":          func(m *Manifest) { m.Parts = append(m.Parts, m.Parts[0]) },
		"no hash":          func(m *Manifest) { m.Parts[0].SHA256 = "" },
		"capitals":         func(m *Manifest) { m.Parts[0].SHA256 = strings.ToUpper(m.Parts[0].SHA256) },
		"odd size":         func(m *Manifest) { m.Parts[0].Size++ },
		"huge":             func(m *Manifest) { m.Parts[0].Size = 1 << 60 },
		"negative":         func(m *Manifest) { m.Parts[0].Size = -mib },
		"file outside":     func(m *Manifest) { m.Parts[0].File = "gangway/../EFI/x" },
		"another folder":   func(m *Manifest) { m.Parts[0].File = "EFI/x" },
		"no blocks":        func(m *Manifest) { m.Parts[0].Extents = nil },
		"no first block":   func(m *Manifest) { m.Parts[0].Extents = []Extent{{1, 1}} },
		"empty extent":     func(m *Manifest) { m.Parts[0].Extents = []Extent{{0, 0}} },
		"negative extent":  func(m *Manifest) { m.Parts[0].Extents = []Extent{{0, -1}} },
		"extents overlap":  func(m *Manifest) { m.Parts[0].Extents = []Extent{{0, 3}, {2, 1}} },
		"past the end":     func(m *Manifest) { m.Parts[0].Extents = []Extent{{0, 1}, {47, 2}} },
		"overflowing":      func(m *Manifest) { m.Parts[0].Extents = []Extent{{0, 1}, {1, 1<<63 - 1}} },
		"network, a gap":   func(m *Manifest) { m.Network = 1 << 20 * 5 / 2 },
		"network, head":    func(m *Manifest) { m.Network = 4096 },
		"network, odd":     func(m *Manifest) { m.Network = 1<<20 + 512 },
		"network, end":     func(m *Manifest) { m.Network = m.Parts[0].Size - 4096 },
		"network, huge":    func(m *Manifest) { m.Network = 1<<63 - 4096 },
		"network, below":   func(m *Manifest) { m.Network = -4096 },
		"far past the end": func(m *Manifest) { m.Parts[0].Extents = []Extent{{0, 1}, {1<<63 - 1, 1}} },
	} {
		t.Run(name, func(t *testing.T) {
			m, _, _ := smallStick(t)
			change(m)
			b, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ParseManifest(b); err == nil {
				t.Error("accepted")
			}
		})
	}
	m, _, _ := smallStick(t)
	b, _ := json.Marshal(m)
	for name, text := range map[string]string{
		"trailing data": string(b) + "{}", "unknown field": strings.Replace(string(b), "{", `{"x":1,`, 1), "nothing": "", "too long": string(b) + strings.Repeat(" ", maxManifest),
	} {
		if _, err := ParseManifest([]byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	m, _, _ := smallStick(f)
	b, _ := json.Marshal(m)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseManifest(b)
		if err != nil {
			return
		}
		for _, p := range m.Parts {
			if p.Packed() > p.Size || p.Packed() <= 0 {
				t.Errorf("part %s: %d packed bytes, size %d", p.Name, p.Packed(), p.Size)
			}
		}
	})
}
