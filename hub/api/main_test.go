package api_test

import (
	"flag"
	"os"
	"runtime/debug"
	"testing"
)

// TestMain runs eight tests at once, unless -parallel says otherwise: most tests wait for
// the disk, the network or a timeout, so one test for each processor leaves the processors
// idle. It also collects garbage less often below 400 MiB, unless GOGC or GOMEMLIMIT is set.
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
		debug.SetMemoryLimit(400 << 20)
	}
	os.Exit(m.Run())
}
