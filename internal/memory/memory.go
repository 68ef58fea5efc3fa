// Package memory tunes Go's garbage collector to the memory of the machine. By default, the garbage
// collector runs each time the heap has doubled, even if most of the machine's memory is free.
package memory

import (
	"math"
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// Percent is the value of GOGC that Use sets: the heap may grow to five times the live heap.
const Percent = 400

// The share of the cgroup's limit and the share of the machine's memory that this program may use.
// The second share is smaller, because other programs and the page cache use the machine's memory
// too.
const (
	ofCgroup  = 0.9
	ofMachine = 0.6
)

// Use limits the memory of this program, and lets the garbage collector run less often while the
// program is below this limit. If the environment has GOMEMLIMIT or GOGC, Use keeps that value. If
// the size of the memory is not known or GOMEMLIMIT is off, there is no limit. Then Use does not
// change GOGC either, because a larger GOGC is safe only with a limit.
func Use() {
	if _, ok := os.LookupEnv("GOMEMLIMIT"); !ok {
		debug.SetMemoryLimit(limit(memlimit.FromCgroup, memlimit.FromSystem))
	}
	if _, ok := os.LookupEnv("GOGC"); !ok && debug.SetMemoryLimit(-1) != math.MaxInt64 {
		debug.SetGCPercent(Percent)
	}
}

// limit returns the smaller of the limits `cgroup` and `machine`. If neither is known, it returns
// math.MaxInt64.
func limit(cgroup, machine memlimit.Provider) int64 {
	least := uint64(math.MaxInt64)
	for _, p := range []memlimit.Provider{memlimit.ApplyRatio(cgroup, ofCgroup), memlimit.ApplyRatio(machine, ofMachine)} {
		if n, err := p(); err == nil && n > 0 {
			least = min(least, n)
		}
	}
	return int64(least)
}
