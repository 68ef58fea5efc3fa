package boot_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gangway/hub/boot"

	"go.yaml.in/yaml/v3"
)

// publicLogs is the folder of firmware event logs from public test data. The folder is next to the
// project, and has a README.md about the sources of the logs.
const publicLogs = "../../../shared/data/eventlogs"

// readAs has the expected results for unusual public logs. The key is the file name. Any other log
// must be read completely. If a log is incomplete or does not belong to a TPM, it explains only
// some PCRs or no PCR. No log causes an error.
var readAs = map[string]struct {
	state string
	why   string // a part of Measurement.LogProblem; empty: there is no problem
	size  int    // number of bytes that tpm2_eventlog can read; 0: all, -1: none
}{
	"0e6e0c6a327f658c": {boot.LogPadded, "registers (CCEL)", -1},
	"96a91cf7cf731dbf": {boot.LogWhole, "registers (CCEL)", -1},
	"cab97131de63eb99": {boot.LogPadded, "registers (CCEL)", -1},
	"d3d761c76bbae9a0": {boot.LogWhole, "registers (CCEL)", -1},
	"f61a3d863bda22d0": {boot.LogPadded, "registers (CCEL)", -1},
	"ebc70a8e80820389": {boot.LogPadded, "registers (CCEL)", -1},                          // followed by an agent's log
	"689abd7a45615d23": {boot.LogPart, "the data ends inside an event", -1},               // a truncated example from documentation
	"8269c67eefc02ff2": {boot.LogPart, "more digests than the log has algorithms", 23970}, // the rest of a protobuf message
	"c4fe9e97bb0d2580": {boot.LogPadded, "", 18619},
}

// tpm2Log is the output of tpm2_eventlog for a log.
type tpm2Log struct {
	Events []tpm2Event               `yaml:"events"`
	PCRs   map[string]map[int]string `yaml:"pcrs"`
}

type tpm2Event struct {
	PCRIndex  int    `yaml:"PCRIndex"`
	EventType string `yaml:"EventType"`
	Digests   []struct {
		Algorithm string `yaml:"AlgorithmId"`
		Digest    string `yaml:"Digest"`
	} `yaml:"Digests"`
	Event any `yaml:"Event"`
}

func (e tpm2Event) sha256() string {
	for _, d := range e.Digests {
		if d.Algorithm == "sha256" {
			return d.Digest
		}
	}
	return ""
}

var notYAML = regexp.MustCompile(`[^\x20-\x7e\n]`)

func tpm2Eventlog(t *testing.T, raw []byte) *tpm2Log {
	t.Helper()
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tpm2_eventlog", file).Output()
	if err != nil {
		t.Fatalf("tpm2_eventlog: %v", err)
	}
	var l tpm2Log
	if err := yaml.Unmarshal(notYAML.ReplaceAll(out, nil), &l); err != nil {
		t.Fatalf("what tpm2_eventlog writes: %v", err)
	}
	return &l
}

// secureBoot returns the state of Secure Boot according to tpm2_eventlog.
func (l *tpm2Log) secureBoot() string {
	for _, e := range l.Events {
		v, ok := e.Event.(map[string]any)
		if !ok || e.PCRIndex != 7 || e.EventType != "EV_EFI_VARIABLE_DRIVER_CONFIG" || v["UnicodeName"] != "SecureBoot" {
			continue
		}
		if v["VariableData"] == "01" {
			return "on"
		}
		return "off"
	}
	return "not told"
}

// pcr0 replays PCR 0. The test does not use the value that tpm2_eventlog 5.4 prints: that program
// also extends EV_NO_ACTION events, and ignores the locality.
func (l *tpm2Log) pcr0(t *testing.T) []byte {
	v := make([]byte, 32)
	extended := false
	for _, e := range l.Events {
		if e.PCRIndex != 0 {
			continue
		}
		data, _ := e.Event.(string)
		if locality, ok := strings.CutPrefix(data, hex.EncodeToString([]byte("StartupLocality\x00"))); ok && e.EventType == "EV_NO_ACTION" {
			v[31] = must(hex.DecodeString(locality))(t)[0]
		}
		if e.EventType == "EV_NO_ACTION" {
			continue
		}
		if data == hex.EncodeToString([]byte("HCRTM")) && !extended {
			v[31] = 4 // an H-CRTM event implies locality 4; the log does not state the locality
		}
		sum := sha256.Sum256(append(v, must(hex.DecodeString(e.sha256()))(t)...))
		v, extended = sum[:], true
	}
	return v
}

// statements has patterns of the names that package boot gives to events. The field `types` has the
// event types that tpm2_eventlog must report for an event with a matching name.
var statements = []struct {
	what  *regexp.Regexp
	types string
}{
	{regexp.MustCompile(`^the separator in PCR \d+$`), "EV_SEPARATOR"},
	{regexp.MustCompile(`^the firmware's version$`), "EV_S_CRTM_VERSION"},
	{regexp.MustCompile(`^the firmware$`), "EV_POST_CODE EV_POST_CODE2 EV_EFI_PLATFORM_FIRMWARE_BLOB EV_EFI_PLATFORM_FIRMWARE_BLOB2 EV_S_CRTM_CONTENTS EV_S_CRTM_VERSION EV_EFI_HCRTM_EVENT EV_NONHOST_INFO Unknown"},
	{regexp.MustCompile(`^(the boot image|boot image \d+)$`), "EV_EFI_BOOT_SERVICES_APPLICATION"},
	{regexp.MustCompile(`^the disk's partition table$`), "EV_EFI_GPT_EVENT"},
	{regexp.MustCompile(`^the firmware's step `), "EV_EFI_ACTION"},
	{regexp.MustCompile(`^Secure Boot variable `), "EV_EFI_VARIABLE_DRIVER_CONFIG"},
	{regexp.MustCompile(`^Secure Boot authority `), "EV_EFI_VARIABLE_AUTHORITY"},
	{regexp.MustCompile(`^firmware variable `), "EV_EFI_VARIABLE_DRIVER_CONFIG EV_EFI_VARIABLE_BOOT EV_EFI_VARIABLE_BOOT2 EV_EFI_VARIABLE_AUTHORITY"},
	{regexp.MustCompile(`^(the boot menu's order|an entry of the boot menu)$`), "EV_EFI_VARIABLE_BOOT"},
	{regexp.MustCompile(`^(the kernel command line|a module's command line|a command of the boot loader)$`), "EV_IPL"},
}

// agrees checks that tpm2_eventlog and package boot describe the event `e` in the same way.
func (l *tpm2Log) agrees(t *testing.T, e boot.Event) {
	t.Helper()
	i := slices.IndexFunc(l.Events, func(o tpm2Event) bool {
		return o.PCRIndex == e.PCR && o.sha256() == e.Digest && o.EventType != "EV_NO_ACTION"
	})
	if i < 0 {
		t.Errorf("%+v is not in the log", e)
		return
	}
	other := l.Events[i]
	shown := strings.NewReplacer(`\0`, "", `\\`, `\`).Replace(fmt.Sprint(other.Event))
	for _, s := range statements {
		if s.what.MatchString(e.What) && !slices.Contains(strings.Fields(s.types), strings.Fields(other.EventType)[0]) {
			t.Errorf("%q is %s", e.What, other.EventType)
		}
	}
	switch {
	case e.What == "the kernel command line":
		if !strings.Contains(shown, e.Text) || e.PCR == 8 && strings.Contains(shown, "grub_cmd") {
			t.Errorf("the kernel command line is %q, tpm2_eventlog says %s", e.Text, shown)
		}
	case strings.HasPrefix(e.What, "Secure Boot variable "), strings.HasPrefix(e.What, "Secure Boot authority "), strings.HasPrefix(e.What, "firmware variable "):
		if name := e.What[strings.LastIndexByte(e.What, ' ')+1:]; !strings.Contains(shown, "UnicodeName:"+name) {
			t.Errorf("%q, tpm2_eventlog says %s", e.What, shown)
		}
	}
}

func TestPublicLogsAreReadAndWhatIsSaidOfThemIsTrue(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(publicLogs, "*.bin"))
	if err != nil || len(files) == 0 {
		t.Skipf("the public logs are not at %s", publicLogs)
	}
	if _, err := exec.LookPath("tpm2_eventlog"); err != nil {
		t.Skip("tpm2_eventlog is not installed: package tpm2-tools")
	}
	counts, on, lines := map[string]int{}, 0, 0
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".bin")
		t.Run(name, func(t *testing.T) {
			raw := must(os.ReadFile(file))(t)
			want, odd := readAs[name]
			if !odd {
				want.state = boot.LogWhole
			}
			var other *tpm2Log
			pcrs := make([][]byte, boot.PCRs)
			for i := range pcrs { // values that do not match this log
				v := sha256.Sum256([]byte{byte(i)})
				pcrs[i] = v[:]
			}
			if want.size >= 0 {
				if want.size == 0 {
					want.size = len(raw)
				}
				other = tpm2Eventlog(t, raw[:want.size])
				pcrs[0] = other.pcr0(t)
				for i := range pcrs[1:] {
					i++
					pcrs[i] = make([]byte, 32)
					if v := other.PCRs["sha256"][i]; v != "" {
						pcrs[i] = must(hex.DecodeString(strings.TrimPrefix(v, "0x")))(t)
					}
				}
			}
			d, e := quoted(t, pcrs, raw)
			m := must(boot.Verify(d.IAK.Public, e))(t)
			counts[m.LogState]++
			if m.LogState != want.state || !strings.Contains(m.LogProblem, want.why) || (m.LogProblem == "") != (want.why == "") {
				t.Errorf("the log is %s: %s", m.LogState, m.LogProblem)
			}
			if other == nil {
				if len(m.Events) > 0 || m.SecureBoot != "not told" || len(m.Unexplained) != boot.PCRs {
					t.Errorf("%d events, Secure Boot %s, unexplained %v", len(m.Events), m.SecureBoot, m.Unexplained)
				}
				return
			}
			if len(m.Unexplained) > 0 {
				t.Errorf("PCRs %v are unexplained", m.Unexplained)
			}
			if other.secureBoot() == "on" {
				on++
			}
			if told := m.SecureBoot; told != other.secureBoot() && !(told == "not told" && len(other.Events) < 5) {
				t.Errorf("Secure Boot %s, tpm2_eventlog says %s", told, other.secureBoot())
			}
			for _, e := range m.Events {
				other.agrees(t, e)
				if e.What == "the kernel command line" {
					lines++
				}
			}
			if c := boot.Compare(boot.NewReference(m, "itself", may3), m); len(c) > 0 {
				t.Errorf("it differs from itself: %q", words(c))
			}
			// If the PCR values are changed, the log does not explain any PCR.
			for i := range e.PCRs {
				e.PCRs[i] = bytes.Repeat([]byte{0xA5}, 32)
			}
			sign(t, d, e)
			if m := must(boot.Verify(d.IAK.Public, e))(t); len(m.Events) > 0 || m.SecureBoot != "not told" {
				t.Errorf("another machine's log: %d events, Secure Boot %s", len(m.Events), m.SecureBoot)
			}
		})
	}
	if on < 10 || lines < 10 || counts[boot.LogWhole] < 30 {
		t.Errorf("the test covered too little: Secure Boot on in %d logs, %d kernel command lines, %v", on, lines, counts)
	}
	t.Logf("%d logs: %v; Secure Boot on in %d, %d kernel command lines", len(files), counts, on, lines)
}
