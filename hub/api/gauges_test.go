package api_test

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/brief"
)

// sample returns the value of a series of /metrics, such as `gangway_devices`.
func sample(t testing.TB, metrics, series string) float64 {
	t.Helper()
	for line := range strings.SplitSeq(metrics, "\n") {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no series %s in\n%s", series, metrics)
	return 0
}

func TestMetricsShowTheHubsState(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.Server.FreshReadings()
	m := f.metrics(t)
	devices := len(f.Devices(t, f.Owner))
	if got := sample(t, m, "gangway_devices"); int(got) < devices || devices == 0 {
		t.Errorf("%v devices, and ada has %d", got, devices)
	}
	for series, want := range map[string]float64{
		"gangway_database_up": 1, "gangway_devices_quiet": 0, "gangway_devices_waiting": 0, "gangway_devices_trust_withdrawn": 0, "gangway_last_backup_timestamp_seconds": 0, "gangway_backup_damaged": 0,
		`gangway_build_info{version="test"}`: 1, "gangway_writes_waiting": 0, "gangway_sign_ins_waiting": 0, `gangway_errors_total{kind="internal"}`: 0,
	} {
		if got := sample(t, m, series); got != want {
			t.Errorf("%s is %v, want %v", series, got, want)
		}
	}
	now := float64(f.Now().Unix())
	for _, one := range []string{"root", "attestation-ca", "device-ca", "hub"} {
		if at := sample(t, m, `gangway_certificate_expiry_timestamp_seconds{certificate="`+one+`"}`); at < now+30*24*3600 {
			t.Errorf("the certificate %s expires at %v", one, at)
		}
	}
	if free := sample(t, m, "gangway_disk_free_bytes"); free <= 0 || free > sample(t, m, "gangway_disk_size_bytes") {
		t.Errorf("%v bytes free", free)
	}
	if drift := sample(t, m, "gangway_clock_drift_seconds"); drift < -1 || drift > 1 {
		t.Errorf("the clock of the same machine is off by %v s", drift)
	}
	f.Advance(time.Minute)
	if drift := sample(t, f.metrics(t), "gangway_clock_drift_seconds"); drift < 59 || drift > 61 {
		t.Errorf("a minute of drift is %v s", drift)
	}
	if err := f.Store.SetLastBackup(t.Context(), f.Now()); err != nil {
		t.Fatal(err)
	}
	if at := sample(t, f.metrics(t), "gangway_last_backup_timestamp_seconds"); at < now || at > now+62 {
		t.Errorf("last backup at %v, now %v", at, now)
	}
	wantCode(f.ada, "GET", "/devices/none", nil, 404)
	if n := sample(t, f.metrics(t), `gangway_refusals_total{code="not-found"}`); n != 1 {
		t.Errorf("%v refusals", n)
	}
}

// An attacker can choose every part of a request, but must not be able to choose a label of a
// metric. With a new label, each request would add a series to the memory of the hub and of the
// monitoring system.
func TestClientsChooseNoLabel(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	const mark = "xyzzy4711"
	header := map[string]string{"User-Agent": mark, "X-Forwarded-For": mark, "Accept": mark}
	for _, r := range [][2]string{
		{"GET", "/" + mark}, {"GET", "/devices/" + mark}, {"POST", "/onboard"}, {"POST", "/onboard/activate"}, {"POST", "/auth/login"}, {mark, "/devices"},
		{"GET", "/fleet/devices?q=" + mark + ":x"}, {"GET", "/fleet/devices?sort=" + mark}, {"PUT", "/policy"}, {"PUT", "/local-s3/" + mark},
	} {
		f.ada.request(r[0], r[1], `{"username":"`+mark+`","error":"`+mark+`"}`, header)
	}
	m := f.metrics(t)
	if strings.Contains(m, mark) {
		t.Errorf("a client's text is in the metrics:\n%s", m)
	}
	for _, secret := range []string{f.boatID, f.Owner.ID, f.Owner.Nick + `"`, must(f.Store.Device(t.Context(), f.boatID))(t).Nick} {
		if strings.Contains(m, secret) {
			t.Errorf("the metrics name a device or an owner: %s", secret)
		}
	}
	for code := range seriesOf(m, "gangway_refusals_total", "code") {
		if !regexp.MustCompile(`^[a-z0-9-]{1,40}$`).MatchString(code) {
			t.Errorf("the code %q", code)
		}
	}
}

// seriesOf returns the values of a label of a metric.
func seriesOf(metrics, name, label string) map[string]bool {
	values := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^`+name+`\{[^}]*`+label+`="([^"]*)"`).FindAllStringSubmatch(metrics, -1) {
		values[m[1]] = true
	}
	return values
}

// Each alarm causes one event when it begins and one event when it ends, even if the hub checks the
// condition of the alarm many times.
func TestAlarmIsOneEventAndNotOneForEachSweep(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.Server.FreshReadings()
	events := func() (kinds []string) {
		for _, e := range must(f.Store.Events(t.Context(), store.EventFilter{Kind: "alarm."}))(t) {
			kinds = append(kinds, e.Kind+" "+e.Code)
			if e.Owner != "" || e.Message == "" {
				t.Errorf("%s", brief.Of(e))
			}
		}
		return kinds
	}
	for range 3 {
		f.Server.Work(t.Context())
	}
	if got := events(); len(got) > 0 {
		t.Fatalf("events of a calm hub: %q", got)
	}
	f.Advance(time.Minute) // the clock differs from the database's
	for range 3 {
		f.Server.Work(t.Context())
	}
	if got := strings.Join(events(), ", "); got != "alarm.begins clock-drift" {
		t.Fatal(got)
	}
	lasting := must(f.Store.Alarms(t.Context()))(t)
	if len(lasting) != 1 || lasting[0].Name != "clock-drift" || !strings.Contains(lasting[0].Fact, "1m0s") {
		t.Errorf("%s", brief.Of(lasting))
	}
	f.Advance(-time.Minute)
	for range 3 {
		f.Server.Work(t.Context())
	}
	if got := strings.Join(events(), ", "); got != "alarm.ends clock-drift, alarm.begins clock-drift" {
		t.Error(got)
	}
	// Owners do not see the operator's events.
	if list := want[[]api.EventView](f.ada, "GET", "/events?kind=alarm.", nil, 200); len(list) > 0 {
		t.Errorf("ada sees %s", brief.Of(list))
	}
}
