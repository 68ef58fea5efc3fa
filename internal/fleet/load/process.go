package load

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// usage is the CPU time that a process has used up to one moment, and the memory and files that it
// uses at this moment.
type usage struct {
	CPU        float64 `json:"cpu_seconds"`
	RSS        int64   `json:"rss_bytes"`
	Goroutines int64   `json:"goroutines,omitempty"` // only from the hub's metrics
	OpenFiles  int64   `json:"open_files,omitempty"`
}

// probe reads the usage of the hub's process.
type probe struct {
	pid     int    // 0: none
	metrics string // URL of the hub's metrics; "": none
}

func (p probe) source() string {
	switch {
	case p.metrics != "":
		return p.metrics
	case p.pid != 0:
		return "pid " + strconv.Itoa(p.pid)
	}
	return ""
}

func (p probe) read(ctx context.Context) (usage, error) {
	if p.metrics != "" {
		return readMetrics(ctx, p.metrics)
	}
	return readProcess(p.pid)
}

// clockTicks is the number of ticks in a second in /proc/PID/stat. Linux has 100 on all machines
// on which Go runs.
const clockTicks = 100

// readProcess reads the usage of a process on this machine: fields 14, 15 and 24 of
// proc_pid_stat(5).
func readProcess(pid int) (usage, error) {
	folder := "/proc/" + strconv.Itoa(pid)
	text, err := os.ReadFile(folder + "/stat")
	if err != nil {
		return usage{}, fmt.Errorf("read the hub's process: %w", err)
	}
	// The name of the program, in brackets, may have spaces and brackets itself.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const first = 3 // number of the field after the name
	number := func(field int) (n int64) {
		if i := field - first; err == nil && i < len(fields) {
			n, err = strconv.ParseInt(fields[i], 10, 64)
		} else if err == nil {
			err = fmt.Errorf("%s/stat has no field %d", folder, field)
		}
		return n
	}
	u := usage{CPU: float64(number(14)+number(15)) / clockTicks, RSS: number(24) * int64(os.Getpagesize())}
	if files, e := os.ReadDir(folder + "/fd"); e == nil { // fails for other users' processes
		u.OpenFiles = int64(len(files))
	}
	return u, err
}

// readMetrics reads the usage from the hub's metrics, which are in Prometheus's text format.
func readMetrics(ctx context.Context, url string) (usage, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return usage{}, fmt.Errorf("read the hub's metrics: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return usage{}, fmt.Errorf("read the hub's metrics: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return usage{}, fmt.Errorf("read the hub's metrics: %s answered %s", url, resp.Status)
	}
	var u usage
	found := false
	lines := bufio.NewScanner(io.LimitReader(resp.Body, 16<<20))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		switch name {
		case "process_cpu_seconds_total":
			u.CPU, found = n, true
		case "process_resident_memory_bytes":
			u.RSS = int64(n)
		case "process_open_fds":
			u.OpenFiles = int64(n)
		case "go_goroutines":
			u.Goroutines = int64(n)
		}
	}
	if err := lines.Err(); err != nil {
		return usage{}, fmt.Errorf("read the hub's metrics: %w", err)
	}
	if !found {
		return usage{}, fmt.Errorf("read the hub's metrics: %s has no process_cpu_seconds_total", url)
	}
	return u, nil
}

// ownUsage returns the usage of this process. Its field RSS is the largest resident memory so far.
func ownUsage() usage {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return usage{}
	}
	return usage{CPU: time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds(), RSS: u.Maxrss << 10}
}
