package api

import (
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// While the hub is overloaded, heartbeats are refused first and onboarding last.
func TestOverloadRefusesHeartbeatsFirstAndOnboardingLast(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	for _, tc := range []struct {
		route string
		want  int // number of these requests that may run at the same time
	}{
		{"PATCH /device/meta", 4}, {"GET /trails/{id}/steps", 4}, {"POST /logs", 4},
		{"GET /device", 6}, {"GET /ui/devices", 6}, {"POST /device/boot", 6}, {"PUT /trails/{id}/steps/{rev}/progress", 6},
		{"POST /onboard", 8}, {"POST /onboard/activate", 8}, {"POST /enroll/request", 8}, {"POST /devices", 8},
		{"GET /healthz", 100}, {"GET /readyz", 100}, {"POST /sign-in", 100}, {"PUT /local-s3/{token}", 100}, {"GET /ui/live", 100},
	} {
		o, n := overload{capacity: 8}, 0
		u := urgencyOf(routeNamed(t, tc.route))
		if u != always {
			o.enter(u, now.Add(-2*time.Second)) // since then, the hub is not calm
			n++
		}
		for range 100 {
			if u == always || o.enter(u, now) {
				n++
			}
		}
		if n != tc.want {
			t.Errorf("%s: %d run at the same time, want %d", tc.route, n, tc.want)
		}
	}
	o := overload{capacity: 8}
	o.enter(heartbeat, now.Add(-2*time.Second))
	for range 3 {
		o.enter(heartbeat, now)
	}
	if o.enter(heartbeat, now) || !o.enter(ordinary, now) || !o.enter(onboardingFirst, now) {
		t.Error("running heartbeats keep others out")
	}
	o.leave()
	o.leave()
	if o.enter(heartbeat, now) != false || o.enter(ordinary, now) != true {
		t.Error("the shares are not for a class and all less important ones together")
	}
}

// A hub that does nothing for most of a second, and then serves the requests that have arrived in
// the meantime, refuses none of them.
func TestStallIsNoOverload(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	o := overload{capacity: 256}
	for range 3 {
		for range 500 {
			if !o.enter(heartbeat, now) {
				t.Fatalf("refused at %v, with %d running", now, o.running.Load())
			}
			now = now.Add(1800 * time.Microsecond)
		}
		for range 500 {
			o.leave()
		}
	}
	// The bound for a stall is not unlimited, and the clock may be set back.
	for range 32 {
		o.enter(heartbeat, now)
	}
	o.running.Store(512)
	if o.enter(heartbeat, now) || !o.enter(ordinary, now) || !o.enter(onboardingFirst, now) || o.enter(onboardingFirst, now.Add(-time.Hour)) {
		t.Error("a stalled hub admits too many or too few requests")
	}
}

// If heartbeats arrive twice as fast as the hub serves them, the hub refuses the surplus after the
// time of a stall. It never refuses onboarding, also not at the end of that time.
func TestLastingOverloadIsNoStall(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	o := overload{capacity: 256}
	most := int64(0)
	for ms := range 20_000 {
		for range 4 {
			o.enter(heartbeat, now)
		}
		if ms%100 == 0 && !o.enter(onboardingFirst, now) {
			t.Fatalf("after %d ms, the hub refused to onboard, with %d running", ms, o.running.Load())
		}
		if ms > 2500 {
			most = max(most, o.running.Load())
		}
		for range min(2, o.running.Load()) {
			o.leave()
		}
		now = now.Add(time.Millisecond)
	}
	if most > 140 {
		t.Errorf("%d requests ran at the same time, although heartbeats may only use 128", most)
	}
}

func routeNamed(t *testing.T, name string) *route {
	t.Helper()
	for i := range routes {
		if routes[i].name() == name {
			return &routes[i]
		}
	}
	t.Fatalf("no route %s", name)
	return nil
}

// The lists of heartbeats and of requests that are always admitted contain only routes that exist.
func TestOverloadNamesRoutesThatExist(t *testing.T) {
	t.Parallel()
	for _, list := range []map[string]bool{heartbeats, alwaysAdmitted} {
		for name := range list {
			routeNamed(t, name)
		}
	}
}

// After a power cut, 100,000 devices send requests at the same time, and the hub serves 1,000
// requests each second. The hub spreads the next requests of the devices over the time that it
// needs to serve all of them.
func TestDevicesComeBackSpreadOutAfterAPowerCut(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	o := overload{capacity: 800}
	for range 800 {
		o.enter(onboardingFirst, now.Add(-2*time.Second))
	}
	for range 10 { // seconds
		for range 9000 {
			if o.enter(heartbeat, now) {
				t.Fatal("the hub is not full")
			}
		}
		for range 600 {
			o.leave()
		}
		for range 600 {
			o.enter(onboardingFirst, now)
		}
		o.served.Add(400)
		now = now.Add(time.Second)
	}
	spread := func(u urgency) (first, last, busiest int) {
		seconds := map[int]int{}
		first = 1 << 30
		for range 100_000 {
			s := o.comeBack(u, now)
			seconds[s]++
			first, last, busiest = min(first, s), max(last, s), max(busiest, seconds[s])
		}
		return first, last, busiest
	}
	_, onboardLast, _ := spread(onboardingFirst)
	ordinaryFirst, ordinaryLast, busiest := spread(ordinary)
	heartbeatFirst, heartbeatLast, _ := spread(heartbeat)
	// The hub refused 90,000 requests, and needs 90 seconds to serve them. Some of these seconds
	// pass during the loop.
	if ordinaryLast < 70 || ordinaryLast > 90 || ordinaryFirst > 2 {
		t.Errorf("ordinary requests come back between %d and %d seconds", ordinaryFirst, ordinaryLast)
	}
	if busiest > 100_000/70*12/10 {
		t.Errorf("%d of 100,000 come back in the same second", busiest)
	}
	if onboardLast > ordinaryLast/3 || heartbeatFirst < ordinaryLast || heartbeatLast > 2*ordinaryLast+2 {
		t.Errorf("onboarding until %d, others until %d, heartbeats from %d to %d", onboardLast, ordinaryLast, heartbeatFirst, heartbeatLast)
	}
	now = now.Add(10 * time.Minute)
	if s := o.comeBack(ordinary, now); s > 5 {
		t.Errorf("long after the overload: %d seconds", s)
	}
}

// Even if there are always too many requests, or the clock jumps, the hub tells no client to wait
// longer than the maximum time.
func TestComeBackIsBounded(t *testing.T) {
	t.Parallel()
	o := overload{capacity: 0}
	now := time.Unix(1e9, 0)
	for i := range 3000 {
		o.enter(onboardingFirst, now)
		switch i % 3 {
		case 0:
			now = now.Add(time.Second)
		case 1:
			now = now.Add(-time.Hour)
		default:
			now = now.AddDate(10, 0, 0)
		}
		for range 100 {
			o.enter(heartbeat, now)
		}
		if s := o.comeBack(heartbeat, now); s < 1 || s > 2*int(maxBacklog/time.Second)+1 {
			t.Fatalf("%d seconds", s)
		}
	}
}

// A request whose body arrives slowly does not count as a running request, so 1,000 slow clients
// cannot make the hub refuse other clients.
func TestSlowBodiesLeaveTheHubsCapacityFree(t *testing.T) {
	t.Parallel()
	o := &overload{capacity: 8}
	now := time.Unix(1e9, 0)
	in, out := io.Pipe()
	for range 1000 {
		if !o.enter(onboardingFirst, now) {
			t.Fatal("slow clients keep others out")
		}
		waiting := o.running.Load()
		go (&waitingBody{in, o}).Read(make([]byte, 1))
		for o.running.Load() >= waiting {
			time.Sleep(10 * time.Microsecond)
		}
	}
	out.Close()
}

func TestOverloadAnswers503WithRetryAfter(t *testing.T) {
	t.Parallel()
	s := &Server{metrics: newMetrics(prometheus.NewRegistry())}
	s.overload.capacity = 0
	s.cfg.Now = time.Now
	s.routes = map[string]*route{"PATCH /device/meta": routeNamed(t, "PATCH /device/meta")}
	r := httptest.NewRequest("PATCH", "/device/meta", strings.NewReader("{}"))
	r.Pattern = "PATCH /device/meta"
	w := httptest.NewRecorder()
	s.fail(w, r, errOverloaded)
	if w.Code != 503 || w.Header().Get("Retry-After") == "" || w.Header().Get("Retry-After") == "0" || !strings.Contains(w.Body.String(), `"overloaded"`) {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}
