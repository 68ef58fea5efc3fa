package preflight

import (
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gangway/device/install"
	"gangway/internal/eventlog"
	"gangway/internal/finding"
	"gangway/internal/swtpm"
	"gangway/internal/swtpm/swtpmtest"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

const global, loader = "-8be4df61-93ca-11d2-aa0d-00e098032b8c", "-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"

// variables makes a folder of firmware variables. Each value is in hexadecimal, without the
// attributes.
func variables(t *testing.T, values map[string]string) install.Firmware {
	t.Helper()
	dir := t.TempDir()
	for name, value := range values {
		b, err := hex.DecodeString("06000000" + value)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return install.Firmware(dir)
}

func write(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func codes(findings []Finding) (list []string) {
	for _, f := range findings {
		list = append(list, f.Code)
	}
	return list
}

// The function `want` checks that a finding has a code and a severity, and that a finding that is
// not good has a remedy and an action.
func want(t *testing.T, f Finding, code string, severity Severity) {
	t.Helper()
	if f.Code != code || f.Severity != severity || f.Fact == "" {
		t.Errorf("got %+v; want %s, %q", f, code, severity)
	}
	if f.Severity != OK && (f.Remedy == "" || f.Action == "") {
		t.Errorf("%s has no remedy or no action: %+v", f.Code, f)
	}
}

// If a machine's only weakness is that its TPM has no EK certificate, Examine reports just that, as
// a note. It leaves no variable in the firmware.
func TestSoundMachine(t *testing.T) {
	t.Parallel()
	tpm := swtpmtest.Start(t, swtpm.Options{EK: swtpm.None})
	boot := eventlog.Boot(true, "kernel", "quiet")
	if err := boot.Extend(tpm.ExtendPCR); err != nil {
		t.Fatal(err)
	}
	m := Machine{OpenTPM: tpm.Open, EventLog: write(t, boot.Bytes()), Firmware: variables(t, map[string]string{"SecureBoot" + global: "01"}), Now: time.Now}
	all := m.Examine()
	if got := strings.Join(codes(all), " "); got != "tpm tpm-banks tpm-lockout-none tpm-ek-certificate-missing event-log event-log-replays secure-boot firmware-oneshot firmware-variables clock" ||
		finding.Worst(all) != Note {
		t.Errorf("%+v", all)
	}
	if files, err := os.ReadDir(string(m.Firmware)); err != nil || len(files) != 1 {
		t.Errorf("the check leaves a variable: %v, %v", files, err)
	}
}

// If the event log does not explain the PCRs of a TPM, the check reports this.
func TestLogThatDoesNotExplainThePCRs(t *testing.T) {
	t.Parallel()
	boot := eventlog.Boot(true, "kernel", "quiet")
	for _, c := range []struct {
		name, code string
		severity   Severity
		fact       string
		prepare    func(*swtpm.TPM) error
	}{
		{"whole", "event-log-replays", OK, "", func(tpm *swtpm.TPM) error { return boot.Extend(tpm.ExtendPCR) }},
		{"unlogged extension", "event-log-replay", Warning, "PCR 4, 7.", func(tpm *swtpm.TPM) error {
			return errors.Join(boot.Extend(tpm.ExtendPCR), tpm.ExtendPCR(4, make([]byte, 32)), tpm.ExtendPCR(7, make([]byte, 32)))
		}},
		{"nothing measured", "event-log-nothing-measured", Warning, "", func(*swtpm.TPM) error { return nil }},
		{"another bank", "event-log-not-compared", Note, "", func(tpm *swtpm.TPM) error { return tpm.AllocateBank(t.Context(), tpm2.TPMAlgSHA384) }},
		{"SHA-1 only", "event-log-not-compared", Note, "", func(tpm *swtpm.TPM) error { return tpm.AllocateBank(t.Context(), tpm2.TPMAlgSHA1) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tpm := swtpmtest.Start(t, swtpm.Options{EK: swtpm.None})
			if err := c.prepare(tpm); err != nil {
				t.Fatal(err)
			}
			link, err := tpm.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer link.Close()
			all := CheckEventLog(write(t, boot.Bytes()), link)
			want(t, all[len(all)-1], c.code, c.severity)
			if !strings.Contains(all[len(all)-1].Fact, c.fact) {
				t.Errorf("%+v", all)
			}
		})
	}
}

// A TPM whose only bank is SHA-384 cannot seal the key of an encrypted disk, because that key is
// sealed to a PCR of the SHA-256 bank.
func TestBanksThatContradictEncryption(t *testing.T) {
	t.Parallel()
	sound := TPM{Version: "2.0", Certificates: 1, Endorsement: true, Owner: true}
	for _, c := range []struct {
		banks    []string
		code     string
		severity Severity
		stops    bool
	}{
		{[]string{"SHA-1", "SHA-256"}, "tpm-banks", OK, false},
		{[]string{"SHA-384"}, "tpm-banks-no-sha256", Warning, true},
		{[]string{"SHA-1"}, "tpm-banks-weak", Problem, true},
		{nil, "tpm-banks-weak", Problem, true},
	} {
		tpm := sound
		tpm.Banks = c.banks
		all := tpm.Judge(false)
		want(t, all[slices.Index(codes(all), c.code)], c.code, c.severity)
		if f := Contradiction(all, true); (f != nil) != c.stops {
			t.Errorf("%v, encrypted: %+v", c.banks, f)
		}
		if f := Contradiction(all, false); f != nil {
			t.Errorf("%v stops an installation without encryption: %+v", c.banks, f)
		}
	}
}

// Only a finding that shows that the installed system could not work stops an installation. If a
// check could not find out something, the installation continues.
func TestOnlyContradictionsStop(t *testing.T) {
	t.Parallel()
	m := Machine{
		OpenTPM:  func() (transport.TPMCloser, error) { return nil, errors.New("busy") },
		EventLog: "/nowhere", Firmware: "/nowhere", Now: func() time.Time { return time.Unix(0, 0) },
	}
	all := m.Examine()
	for _, code := range []string{"tpm-missing", "secure-boot-unknown", "firmware-variables-none"} {
		if !slices.Contains(codes(all), code) {
			t.Errorf("no finding %s in %v", code, codes(all))
		}
	}
	if f := Contradiction(all, true); f != nil {
		t.Errorf("%+v stops the installation", f)
	}
	if f := Contradiction([]Finding{{Code: "tpm"}, {Code: "tpm-version"}}, false); f == nil || f.Code != "tpm-version" {
		t.Errorf("a TPM 1.2 gives %+v", f)
	}
}

func TestModesOfSecureBoot(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		secure, setup, audit, deployed string // "": the firmware does not have the variable
		code                           string
		severity                       Severity
		fact                           string
	}{
		{"01", "00", "00", "00", "secure-boot", OK, "user mode"},
		{"01", "", "", "", "secure-boot", OK, "user mode"},
		{"01", "00", "00", "01", "secure-boot", OK, "deployed mode"},
		{"00", "00", "00", "00", "secure-boot-off", Note, "user mode"},
		{"00", "01", "00", "00", "secure-boot-setup", Note, "setup mode"},
		{"00", "01", "01", "00", "secure-boot-audit", Warning, "audit mode"},
		{"01", "01", "00", "00", "secure-boot-contradiction", Warning, ""},
		{"02", "00", "00", "00", "secure-boot-unreadable", Note, ""},
		{"01", "0000", "00", "00", "secure-boot-unreadable", Note, ""},
		{"", "", "", "", "secure-boot-unknown", Note, ""},
	} {
		values := map[string]string{}
		for name, value := range map[string]string{"SecureBoot": c.secure, "SetupMode": c.setup, "AuditMode": c.audit, "DeployedMode": c.deployed} {
			if value != "" {
				values[name+global] = value
			}
		}
		f := CheckSecureBoot(variables(t, values))
		want(t, f, c.code, c.severity)
		if !strings.Contains(f.Fact, c.fact) {
			t.Errorf("%+v", f)
		}
	}
}

// The texts "a" and "b" in hexadecimal, as the boot manager stores them in a variable: UTF-16, with
// a zero at the end.
const entryA, entryB = "61000000", "62000000"

// If the boot manager started the entry that LoaderEntryOneShot names, and the variable still
// exists, then the firmware did not remove it, and CheckOneShot reports this.
func TestFirmwareThatKeepsTheOneShot(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		selected, oneShot, code string
		severity                Severity
	}{
		{entryA, "", "firmware-oneshot", OK},
		{entryA, entryB, "firmware-oneshot", OK}, // the agent has prepared the trial of another system
		{entryA, entryA, "firmware-oneshot-kept", Warning},
	} {
		values := map[string]string{"LoaderEntrySelected" + loader: c.selected, "LoaderEntryOneShot" + loader: c.oneShot}
		if c.oneShot == "" {
			delete(values, "LoaderEntryOneShot"+loader)
		}
		want(t, CheckOneShot(variables(t, values)), c.code, c.severity)
	}
}

// utf16 encodes a text as a boot manager's variable, in hexadecimal.
func utf16(text string) string { return hex.EncodeToString(eventlog.UTF16(text)) }

// On a system that Gangway installed, CheckEntry reports whether the firmware has forgotten the
// boot entry that the installer made. On any other system it reports nothing.
func TestFirmwareThatForgetsTheBootEntry(t *testing.T) {
	t.Parallel()
	const guid = "00112233-4455-6677-8899-aabbccddeeff"
	for _, c := range []struct {
		running, esp, code string
	}{
		{"gangway-a.efi", guid, "firmware-entry"},
		{"gangway-b.efi", strings.ToUpper(guid), "firmware-entry"},
		{"gangway-a.efi", "11112233-4455-6677-8899-aabbccddeeff", "firmware-entry-forgotten"}, // the entry names another disk
		{"gangway-auto.efi", guid, ""},
		{"debian.conf", guid, ""},
	} {
		f := variables(t, map[string]string{"LoaderEntrySelected" + loader: utf16(c.running), "LoaderDevicePartUUID" + loader: utf16(c.esp)})
		if err := f.Start(&install.Installed{ESPGUID: guid, Sector: 512, ESPStart: 1 << 20, ESPSize: 1 << 28}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(codes(CheckEntry(f)), " "); got != c.code {
			t.Errorf("%s on %s: %q, want %q", c.running, c.esp, got, c.code)
		}
	}
	f := variables(t, map[string]string{"LoaderEntrySelected" + loader: utf16("gangway-a.efi"), "LoaderDevicePartUUID" + loader: utf16(guid)})
	want(t, CheckEntry(f)[0], "firmware-entry-forgotten", Note)
}

// The test puts a folder where the variable's file should be. Like a variable in faulty firmware,
// the folder can be neither written nor removed.
func TestFirmwareThatDoesNotStoreVariables(t *testing.T) {
	t.Parallel()
	f := install.Firmware(t.TempDir())
	if err := os.MkdirAll(filepath.Join(string(f), "GangwayProbe"+loader, "kept"), 0o700); err != nil {
		t.Fatal(err)
	}
	want(t, checkStorage(f), "firmware-variables-forgotten", Warning)
}

// docs/agent.md lists the code of each finding that is not good.
func TestCodesAreInTheDocs(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/agent.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(good\()?"((?:tpm|event-log|secure-boot|firmware|clock|check)-[a-z0-9-]+)"`).FindAllStringSubmatch(string(source), -1) {
			if m[1] != "" {
				continue
			}
			found++
			if !strings.Contains(string(doc), "`"+m[2]+"`") {
				t.Errorf("docs/agent.md does not list %s", m[2])
			}
		}
	}
	if found < 25 {
		t.Errorf("the source has only %d codes", found)
	}
}

func TestClockBeforeTheBuild(t *testing.T) {
	t.Parallel()
	const built = "2026-11-29T12:00:00Z"
	made, err := time.Parse(time.RFC3339, built)
	if err != nil {
		t.Fatal(err)
	}
	want(t, CheckClock(made.Add(-time.Second), built), "clock-behind", Warning)
	want(t, CheckClock(made, built), "clock", OK)
	want(t, CheckClock(time.Unix(0, 0), ""), "clock", OK)
}

// A TPM that does not answer delays the installation for at most 30 seconds.
func TestTPMThatNeverAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		m := Machine{OpenTPM: func() (transport.TPMCloser, error) { <-free; return nil, os.ErrClosed }, EventLog: "/nowhere", Firmware: "/nowhere", Now: time.Now}
		began := time.Now()
		all := m.Examine()
		if len(all) != 1 || time.Since(began) != maxTime {
			t.Fatalf("%+v after %s", all, time.Since(began))
		}
		want(t, all[0], "check-timeout", Warning)
		close(free)
	})
}
