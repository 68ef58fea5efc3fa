package e2e_test

import (
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"gangway/internal/fleet/load"
)

// attack describes how strong the attack of TestAttackCostsLittle is, and what it may cost.
type attack struct {
	rounds    int
	each      time.Duration
	onboard   float64       // good devices a second
	forged    float64       // forged requests a second, from addresses that send 20 each
	flood     float64       // forged requests a second from a few addresses
	addresses int           // number of addresses that send the flood
	slow      float64       // new slow clients a second
	slowFor   string        // how long the hub waits for a slow client
	allowance time.Duration // extra time, because other programs use the machine
	share     float64       // largest cost of a forged request, as a share of the cost of an onboarding
}

// attackStrength returns a small attack or, if GANGWAY_HOSTILE is set, an attack with that number
// of forged requests a second.
func attackStrength(t *testing.T) attack {
	t.Helper()
	text := os.Getenv("GANGWAY_HOSTILE")
	if text == "" {
		return attack{rounds: 1, each: 2 * time.Second, onboard: 10, forged: 250, flood: 300, addresses: 1, slow: 20, slowFor: "2s", allowance: 500 * time.Millisecond, share: 0.2}
	}
	rate, err := strconv.Atoi(text)
	if err != nil || rate < 1 {
		t.Fatalf("GANGWAY_HOSTILE is %q, not a number of requests a second", text)
	}
	return attack{rounds: 3, each: 20 * time.Second, onboard: 10, forged: 1000, flood: float64(rate), addresses: 16, slow: 100, slowFor: "10s", share: 0.1}
}

// Devices onboard at a hub, first without and then with an attack. The attack has slow clients,
// garbage instead of TLS, bodies that are too large, and forged requests. The devices need at most
// twice their usual time, and a forged request costs the hub only a fraction of a good request.
// GANGWAY_HOSTILE makes the attack strong.
func TestAttackCostsLittle(t *testing.T) {
	needFullRun(t)
	a := attackStrength(t)
	t.Parallel()
	h := newLoadedHub(t, nil, "--header-timeout", a.slowFor)
	limited := int64(0)
	run := func(addresses int, mix ...load.Share) *load.Report {
		t.Helper()
		devices := 1
		if mix[0].Kind == "onboard" {
			devices = int(mix[0].Rate * a.each.Seconds())
		}
		report, err := load.Run(t.Context(), load.Config{
			Token: h.token, Maker: h.maker, Devices: devices, For: a.each, Mix: mix, Addresses: addresses, HubPID: h.cmd.Process.Pid, Timeout: 30 * time.Second,
			NewConnections: true, Outstanding: 3000,
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range report.Kinds {
			if len(k.Errors) != 0 {
				t.Logf("%s: %v of %d", k.Kind, k.Errors, k.Scheduled)
			}
			// A hub that lacks CPU time may answer with another refusal, such as 503. A real device
			// then tries again. The devices of this fleet do not, so up to a tenth of the
			// onboardings may fail.
			if k.Errors["accepted"] != 0 || k.Kind == "onboard" && k.OK < k.Scheduled*9/10 {
				t.Errorf("%s: %d of %d were as expected; %v", k.Kind, k.OK, k.Scheduled, k.Errors)
			}
		}
		return report
	}
	good := load.Share{Kind: "onboard", Rate: a.onboard}
	var usual, attacked, cpuGood, cpuForged, cpuFlood []float64
	for range a.rounds {
		quiet := run(0, good)
		usual = append(usual, quiet.Kinds[0].Latency.P50)
		cpuGood = append(cpuGood, quiet.HubProcess.CPU/float64(quiet.Kinds[0].OK))
		forged := run(0, load.Share{Kind: "forged", Rate: a.forged})
		cpuForged = append(cpuForged, forged.HubProcess.CPU/float64(forged.Total.Refused))
		flood := run(a.addresses, load.Share{Kind: "forged", Rate: a.flood})
		cpuFlood = append(cpuFlood, flood.HubProcess.CPU/float64(flood.Total.Refused))
		limited += flood.Kinds[0].Refused["too-many-requests"]
		t.Logf("flood: %.0f requests a second, %v, %d missed", flood.Total.PerSecond, flood.Kinds[0].Refused, flood.Total.Missed)
		hostile := run(0, good, load.Share{Kind: "slow", Rate: a.slow}, load.Share{Kind: "garbage", Rate: 20}, load.Share{Kind: "oversized", Rate: 5}, load.Share{Kind: "forged", Rate: a.forged})
		attacked = append(attacked, hostile.Kinds[0].Latency.P50)
	}
	u, w := median(usual), median(attacked)
	g, f, l := median(cpuGood), median(cpuForged), median(cpuFlood)
	t.Logf("onboarding takes %.1f ms usually, %.1f ms under attack (p50)", u, w)
	t.Logf("CPU of the hub: %.2f ms for each onboarding, %.3f ms (%.3f) for each forged request that is judged, %.3f ms (%.3f) for each of a flood from %d addresses", 1000*g, 1000*f, f/g, 1000*l, l/g, a.addresses)
	if limited == 0 {
		t.Error("the rate limit refused no request of the flood")
	}
	if w > 2*u+float64(a.allowance.Milliseconds()) {
		t.Errorf("under attack, onboarding takes %.1f ms; usually %.1f ms", w, u)
	}
	if f > g*a.share || l > g*a.share {
		t.Errorf("a forged request costs %.3f, and one of a flood %.3f of an onboarding", f/g, l/g)
	}
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
