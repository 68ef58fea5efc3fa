package qemu_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/device/install"
	bootlog "gangway/hub/boot"
	"gangway/internal/hubtest"
	"gangway/wire/manifest"
	"gangway/wire/manifest/measure"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/uuid"
)

// reference has the measurements of the systems on a stick: the system that will be installed, its
// boot manager, and the installers. The image builder computes them in advance.
type reference struct {
	manager    manifest.Program
	system     *manifest.System
	installers []manifest.System
}

// compute stores the measurements of the system that will be installed and of its boot manager. The
// image builder calls it as stick.Config.Boots.
func (r *reference) compute(manager, system []byte) (err error) {
	if r.manager, err = measure.Program(manager); err != nil {
		return err
	}
	r.system, err = measure.System(system)
	return err
}

// installs adds the measurements of one of the installers on the stick. The image builder calls it
// as stick.Config.Installs.
func (r *reference) installs(system []byte) error {
	s, err := measure.System(system)
	if err == nil {
		r.installers = append(r.installers, *s)
	}
	return err
}

// isMeasured checks that three PCRs of the machine's last boot agree with the reference:
//
//	PCR 4    exactly the boot manager, then the system, and then, if the firmware starts the kernel
//	         in the system, this kernel
//	PCR 11   the value that results from the system
//	PCR 12   only the system's command line
func (s *site) isMeasured(t *testing.T, r *reference) bootlog.Measurement {
	t.Helper()
	_, m, _ := latestBoot(t, s.hub)
	if slices.Contains(m.Unexplained, 4) || slices.Contains(m.Unexplained, 11) || r.system == nil {
		t.Fatalf("the log explains all PCRs but %v", m.Unexplained)
	}
	var programs []string
	for _, e := range m.Events {
		if e.PCR == 4 && strings.Contains(e.What, "boot image") {
			programs = append(programs, e.Digest)
		} else if e.PCR == 4 && !strings.HasPrefix(e.What, "the separator") && !strings.HasPrefix(e.What, "the firmware's step") {
			t.Errorf("PCR 4 has an event that the manifest does not name: %+v", e)
		}
	}
	want := []string{r.manager.Authenticode[m.Bank], r.system.Authenticode[m.Bank]}
	if m.SecureBoot == "off" { // with Secure Boot on, systemd's stub starts the kernel itself, so the firmware does not measure it
		want = append(want, r.system.Kernel.Authenticode[m.Bank])
	}
	if !slices.Equal(programs, want) {
		t.Errorf("PCR 4 (%s) has the programs %q, and the manifest %q", m.Bank, programs, want)
	}
	if want := r.system.PCR11[m.Bank][""]; m.PCRs[11] != want {
		t.Errorf("PCR 11 (%s) is %s, and the manifest has %s", m.Bank, m.PCRs[11], want)
	}
	lines := 0
	for _, e := range m.Events {
		if e.PCR == 12 && e.Text != r.system.Cmdline {
			t.Errorf("PCR 12 has an event that the manifest does not name: %+v", e)
		} else if e.PCR == 12 {
			lines++
		}
	}
	if slices.Contains(m.Unexplained, 12) {
		t.Errorf("the log does not explain PCR 12, which is %s", m.PCRs[12])
	}
	t.Logf("Secure Boot %s: PCR 12 has the command line %d times", m.SecureBoot, lines)
	return m
}

// hasOwnersKeys checks that the machine measured the owner's Secure Boot variables, and that only
// the owner's certificate authorised the programs.
func hasOwnersKeys(t *testing.T, m bootlog.Measurement, want *manifest.SecureBoot) {
	t.Helper()
	variables, authorities := map[string]string{}, []string{}
	for _, e := range m.Events {
		if name, ok := strings.CutPrefix(e.What, "Secure Boot variable "); ok && e.PCR == 7 {
			variables[name] = e.Digest
		}
		if strings.HasPrefix(e.What, "Secure Boot authority ") && e.PCR == 7 {
			authorities = append(authorities, e.Digest)
		}
	}
	for _, v := range want.Variables {
		if variables[v.Name] != v.Events[m.Bank] {
			t.Errorf("PCR 7 has another %s: %s, want %s", v.Name, variables[v.Name], v.Events[m.Bank])
		}
	}
	if !slices.Equal(authorities, []string{want.Authority[m.Bank]}) {
		t.Errorf("PCR 7 has the authorities %q, want %q", authorities, want.Authority[m.Bank])
	}
}

// publish gives the site's owner a key that signs manifests, and uploads the reference's manifest.
func (s *site) publish(t *testing.T, r *reference, sequence uint64) {
	t.Helper()
	o := s.signIn(t)
	if s.manifestKey == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		s.manifestKey = key
		public, err := manifest.MarshalKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		o.call(t.Context(), "POST", "/boots/keys", map[string]string{"name": "build machine", "key": string(public), "password": hubtest.Password}, nil)
	}
	text, err := manifest.Sign(&manifest.Manifest{
		Format: manifest.Format, Name: fmt.Sprint("system ", sequence), Made: time.Now().UTC().Truncate(time.Second), Sequence: sequence,
		BootManager: &r.manager, System: *r.system, Installers: r.installers,
	}, s.manifestKey)
	if err != nil {
		t.Fatal(err)
	}
	o.call(t.Context(), "POST", "/boots/manifests", []byte(text), nil)
}

// hasReportedTable checks that the installer reported the partition table that is on the machine's
// disk, and that PCR 5 has exactly the value that follows from this table.
func (s *site) hasReportedTable(t *testing.T) {
	t.Helper()
	_, m, _ := latestBoot(t, s.hub)
	if m.Installed == nil {
		t.Fatalf("the device sent no valid report of an installer: %q", m.InstalledProblem)
	}
	disk, err := os.Open(s.disk)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	table, err := install.ReadTable(disk, 512)
	if err != nil || !bytes.Equal(table, m.Installed.Table) {
		t.Errorf("the installer reported another partition table than the one on the disk, %v:\n%x\n%x", err, m.Installed.Table, table)
	}
	if want := hex.EncodeToString(measure.PCR5(table, manifest.Banks()[m.Bank])); m.PCRs[5] != want {
		t.Errorf("PCR 5 (%s) is %s; with the reported partition table it should be %s; %+v", m.Bank, m.PCRs[5], want, m.Events)
	}
	s.says(t, "boot-path", "PCR 5 has the partition table that the installer of \"system 1\" wrote on this disk.")
}

// alterTable gives the data partition of the machine's disk another GUID.
func (s *site) alterTable(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile(s.disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	disk := file.New(f, false)
	table, err := gpt.Read(disk, 512, 512)
	if err != nil {
		t.Fatal(err)
	}
	table.Partitions[1].GUID = uuid.NewString()
	w, err := disk.Writable()
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Write(w, diskSize); err != nil {
		t.Fatal(err)
	}
}

// The method `says` checks that the sentence in which the hub describes a part of the last boot
// ends with `want`.
func (s *site) says(t *testing.T, part, want string) {
	t.Helper()
	o := s.signIn(t)
	var boot struct{ Parts []bootlog.PartVerdict }
	o.call(t.Context(), "GET", "/devices/"+o.device+"/boot", nil, &boot)
	for _, p := range boot.Parts {
		if p.Part == part && !strings.HasSuffix(p.Words, want) {
			t.Errorf("the hub says of the %s: %q; want %q", part, p.Words, want)
		}
	}
}

// The method `judged` compares the hub's verdict on the parts of the last boot with `want`. Each
// element of `want` is a part's name and state, such as "system expected".
func (s *site) judged(t *testing.T, want ...string) {
	t.Helper()
	o := s.signIn(t)
	var boot struct {
		Parts []struct {
			Name         string `json:"part"`
			State, Words string
		}
	}
	o.call(t.Context(), "GET", "/devices/"+o.device+"/boot", nil, &boot)
	var is []string
	for _, p := range boot.Parts {
		is = append(is, p.Name+" "+p.State)
	}
	for _, w := range want {
		if !slices.Contains(is, w) {
			t.Errorf("the hub's verdict is %q; want %q; %+v", is, w, boot.Parts)
		}
	}
}
