package alarm_test

import (
	"slices"
	"testing"
	"time"

	"gangway/hub/alarm"
)

var now = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// calm returns a reading for which no alarm condition holds. Each number is at its limit: if it
// goes one step further, a condition begins.
func calm() alarm.Reading {
	return alarm.Reading{
		Now: now, Created: now.Add(-100 * 24 * time.Hour), Backup: now.Add(-alarm.BackupOld), Database: true, ClockKnown: true,
		Certificates: []alarm.Certificate{{Name: "root", Expires: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)}, {Name: "pages", Expires: now.Add(alarm.CertificateSoon)}},
		Disk:         &alarm.Disk{Free: 3 << 30, Size: 100 << 30, Reserve: 1 << 30},
		Drift:        -alarm.MaxDrift, Devices: 1000, Quiet: 199, QuietBefore: 100, Refused: 12, Accepted: 12,
	}
}

func TestEachConditionBeginsAtItsBound(t *testing.T) {
	t.Parallel()
	r := calm()
	if lasting, unknown := alarm.Check(&r); len(lasting)+len(unknown) > 0 {
		t.Fatalf("conditions of a calm hub: %v, unknown: %v", lasting, unknown)
	}
	tested := map[string]bool{}
	for _, c := range []struct {
		name   string
		change func(*alarm.Reading)
	}{
		{"certificate-expires", func(r *alarm.Reading) { r.Certificates[1].Expires = r.Certificates[1].Expires.Add(-time.Second) }},
		{"certificate-expires", func(r *alarm.Reading) { r.Certificates[0].Expires = now }},
		{"certificate-expires", func(r *alarm.Reading) { r.Certificates[1].Expires = time.Time{} }},
		{"maker-root-expires", func(r *alarm.Reading) { r.RootsSoon++ }},
		{"disk-low", func(r *alarm.Reading) { r.Disk.Free-- }},
		{"backup-old", func(r *alarm.Reading) { r.Backup = r.Backup.Add(-time.Second) }},
		{"backup-old", func(r *alarm.Reading) { r.Backup = time.Time{} }},
		{"backup-damaged", func(r *alarm.Reading) { r.BackupFault = "It is gone." }},
		{"clock-drift", func(r *alarm.Reading) { r.Drift -= time.Millisecond }},
		{"clock-drift", func(r *alarm.Reading) { r.Drift = alarm.MaxDrift + time.Millisecond }},
		{"clock-drift", func(r *alarm.Reading) { r.Unset = true }},
		{"devices-quiet", func(r *alarm.Reading) { r.Quiet++ }},
		{"refusals", func(r *alarm.Reading) { r.Refused++ }},
		{"trust-withdrawn", func(r *alarm.Reading) { r.Withdrawn++ }},
	} {
		r := calm()
		c.change(&r)
		lasting, _ := alarm.Check(&r)
		if len(lasting) != 1 || lasting[0].Name != c.name || lasting[0].Fact == "" {
			t.Errorf("%s: %v", c.name, lasting)
		}
		if rule, ok := alarm.Find(c.name); !ok || rule.Remedy == "" {
			t.Errorf("%s has no remedy", c.name)
		}
		tested[c.name] = true
	}
	for _, rule := range alarm.Rules {
		if !tested[rule.Name] {
			t.Errorf("no test of %s", rule.Name)
		}
	}
}

// Small numbers do not cause an alarm. Examples are a hub that has three devices, one of them
// switched off, and a new hub that has no backup.
func TestSmallNumbersAreCalm(t *testing.T) {
	t.Parallel()
	r := calm()
	r.Devices, r.Quiet, r.QuietBefore, r.Refused, r.Accepted = 12, 9, 0, 9, 0
	r.Created, r.Backup = now.Add(-time.Hour), time.Time{}
	if lasting, _ := alarm.Check(&r); len(lasting) > 0 {
		t.Error(lasting)
	}
}

// If the database does not answer, its numbers in the reading are zero. These zeros must not end an
// alarm that began earlier.
func TestUnknownConditionsAreNamed(t *testing.T) {
	t.Parallel()
	_, unknown := alarm.Check(&alarm.Reading{Now: now})
	slices.Sort(unknown)
	if want := []string{"backup-damaged", "backup-old", "clock-drift", "devices-quiet", "disk-low", "trust-withdrawn"}; !slices.Equal(unknown, want) {
		t.Errorf("unknown: %v, want %v", unknown, want)
	}
}
