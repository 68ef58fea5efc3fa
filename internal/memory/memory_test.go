package memory

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

func TestLimitIsTheSmallerOfCgroupAndMachine(t *testing.T) {
	unknown := func() (uint64, error) { return 0, errors.New("unknown") }
	none := func() (uint64, error) { return 0, memlimit.ErrNoLimit }
	for _, tc := range []struct {
		name            string
		cgroup, machine memlimit.Provider
		want            int64
	}{
		{"the cgroup is smaller", memlimit.Limit(1 << 30), memlimit.Limit(8 << 30), 966367641},
		{"the machine is smaller", memlimit.Limit(8 << 30), memlimit.Limit(1 << 30), 644245094},
		{"no cgroup", unknown, memlimit.Limit(1 << 30), 644245094},
		{"a cgroup without a limit", none, memlimit.Limit(1 << 30), 644245094},
		{"nothing is known", unknown, unknown, math.MaxInt64},
		{"a cgroup limit of 0", memlimit.Limit(0), unknown, math.MaxInt64},
		{"more than an int64", memlimit.Limit(math.MaxUint64), unknown, math.MaxInt64},
	} {
		if got := limit(tc.cgroup, tc.machine); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
}

// Use does not override GOMEMLIMIT and GOGC from the environment. The test starts a new process,
// because Go reads both variables before main.
func TestEnvironmentOverridesTheLimits(t *testing.T) {
	if os.Getenv("MEMORY_TEST_CHILD") != "" {
		Use()
		percent := debug.SetGCPercent(100)
		fmt.Printf("limit %d percent %d.\n", debug.SetMemoryLimit(-1), percent)
		return
	}
	for _, tc := range []struct {
		env  []string
		want string
	}{
		{nil, "percent 400."},
		{[]string{"GOGC=50"}, "percent 50."},
		{[]string{"GOMEMLIMIT=123MiB"}, "limit 128974848 percent 400."},
		{[]string{"GOMEMLIMIT=off"}, "limit 9223372036854775807 percent 100."},
		{[]string{"GOMEMLIMIT=123MiB", "GOGC=off"}, "limit 128974848 percent -1."},
	} {
		c := exec.Command(os.Args[0], "-test.run=^TestEnvironmentOverridesTheLimits$")
		for _, v := range os.Environ() {
			if !strings.HasPrefix(v, "GOGC=") && !strings.HasPrefix(v, "GOMEMLIMIT=") {
				c.Env = append(c.Env, v)
			}
		}
		c.Env = append(append(c.Env, "MEMORY_TEST_CHILD=yes"), tc.env...)
		out, err := c.CombinedOutput()
		if err != nil || !strings.Contains(string(out), tc.want) {
			t.Errorf("%v: %s, %v; want %q", tc.env, out, err, tc.want)
		}
	}
}
