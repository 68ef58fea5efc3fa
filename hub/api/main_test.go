package api_test

import (
	"flag"
	"os"
	"runtime/debug"
	"testing"
)

// TestMain runs eight tests at once and collects garbage less often, unless -parallel or
// GOGC say otherwise. Most tests wait for the disk, the network or a timeout: one test for
// each processor leaves the processors idle.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", "8"); err != nil {
			panic(err)
		}
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	os.Exit(m.Run())
}
