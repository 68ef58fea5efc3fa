package api_test

import (
	"fmt"
	"runtime"
	"testing"

	"gangway/internal/race"
)

// A hub collects garbage more often the more memory it allocates for each report, and each
// collection on a hub with many connections delays all requests. The bound includes what the
// client, which is in the same process, allocates for its request.
func TestReportAllocatesLittle(t *testing.T) {
	race.Skip(t)
	s := newScene(t)
	certs := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	conn := must(s.client.Dial(t.Context(), certs.TLS(s.victim)))(t)
	defer conn.Close()
	report := func(i int) {
		a := must(conn.Do(t.Context(), "PATCH", "/device/meta", fmt.Appendf(nil, `{"version":"1.0","uptime":%d,"hostname":"pump-7","kernel":"6.12.0","mode":"remote","claimed":"1","state":"idle",`+
			`"interfaces":{"eth0.ipv4":["192.0.2.1"]},"time":{"timezone":{"west":0,"dst":0},"timeval":{"sec":%d,"usec":0}},"sysinfo":{"uptime":%d,"loads":[1,0,0],"procs":99},"storage":{"total":68719476736,"free":%d}}`, i, i, i, i)))(t)
		if a.Status != 200 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
	}
	const reports = 500
	for i := range reports {
		report(i)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range reports {
		report(reports + i)
	}
	runtime.ReadMemStats(&after)
	bytes, objects := (after.TotalAlloc-before.TotalAlloc)/reports, (after.Mallocs-before.Mallocs)/reports
	t.Logf("%d bytes and %d objects for each report", bytes, objects)
	if bytes > 19<<10 || objects > 195 {
		t.Errorf("a report allocates %d bytes in %d objects", bytes, objects)
	}
}
