package api_test

import (
	"flag"
	"os"
	"runtime/debug"
	"testing"

	"gangway/internal/race"
)

// TestMain runs eight tests at the same time, unless -parallel sets another number. Most tests wait
// for the disk, the network or a timeout, so one test for each processor would leave the processors
// idle. Unless GOGC or GOMEMLIMIT is set, TestMain also makes Go collect garbage less often while
// the process uses less than 1 GiB. The race detector multiplies the memory, so with it the limit
// is 400 MiB.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", "8"); err != nil {
			panic(err)
		}
	}
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetGCPercent(800)
		limit := int64(1 << 30)
		if race.Enabled {
			limit = 400 << 20
		}
		debug.SetMemoryLimit(limit)
	}
	os.Exit(m.Run())
}
