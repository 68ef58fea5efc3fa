package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"gangway/device/agent/revision"
	"gangway/internal/diskfile"
	"gangway/internal/strictjson"

	"golang.org/x/sys/unix"
)

// The method `meta` returns the device-meta that the agent reports to the hub. Keys that begin with
// "gangway." are the agent's own. The other keys are Pantavisor's and have the same meaning as in
// Pantavisor. meta leaves out "pantavisor.version", because this agent is not Pantavisor.
func (a *Agent) meta(s *session, follower *revision.Follower) map[string]any {
	m := map[string]any{
		"gangway.version":     a.cfg.Version,
		"gangway.uptime-s":    int(time.Since(a.started).Seconds()),
		"gangway.arch":        runtime.GOARCH,
		"pantavisor.arch":     pantavisorArch(),
		"pantavisor.cpumodel": cpuModel(),
		"pantavisor.dtmodel":  readText("/proc/device-tree/model"),
		"pantavisor.mode":     "remote",
		"pantahub.claimed":    "1",
		"pantahub.online":     "1",
		"pantahub.state":      "idle",
		"interfaces":          interfaces(),
		"time":                clock(),
	}
	if host, err := os.Hostname(); err == nil {
		m["gangway.hostname"] = host
	}
	if u, err := url.Parse(s.h.url()); err == nil {
		m["pantahub.address"] = u.Host
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m["gangway.kernel"] = unix.ByteSliceToString(u.Release[:])
		m["pantavisor.uname"] = map[string]string{
			"kernel.name": unix.ByteSliceToString(u.Sysname[:]), "kernel.release": unix.ByteSliceToString(u.Release[:]),
			"kernel.version": unix.ByteSliceToString(u.Version[:]), "node.name": unix.ByteSliceToString(u.Nodename[:]),
			"machine": unix.ByteSliceToString(u.Machine[:]),
		}
	}
	if info, err := sysinfo(); err == nil {
		m["sysinfo"] = info
	}
	var disk unix.Statfs_t
	if unix.Statfs(a.cfg.StateDir, &disk) == nil {
		size := uint64(disk.Bsize)
		m["storage"] = map[string]uint64{"total": disk.Blocks * size, "free": disk.Bavail * size, "reserved": (disk.Bfree - disk.Bavail) * size, "real_free": disk.Bfree * size}
	}
	for key, path := range a.cfg.ReportFiles {
		if _, is := m[key]; is {
			continue
		}
		if text, err := readReport(path); err == nil {
			m[key] = text
		} else if !errors.Is(err, fs.ErrNotExist) {
			a.sayOnce("file "+path, "report", "Reading the file %s for the report failed: %v.", path, err)
		}
	}
	if follower != nil {
		status := follower.Status()
		m["pantavisor.revision"] = status.Revision
		m["pantahub.state"] = pantahubState(status.Phase)
	}
	return m
}

// maxReportFile is the maximum size, in bytes, of a file that the agent copies into a report.
const maxReportFile = 16 << 10

func readReport(path string) (string, error) {
	b, err := diskfile.Read(path, 0, maxReportFile)
	if err == nil && !utf8.Valid(b) {
		err = fmt.Errorf("%s is not UTF-8 text", path)
	}
	return string(b), err
}

// pantahubState returns Pantavisor's name for a phase of the revision follower.
func pantahubState(phase string) string {
	switch phase {
	case "queued":
		return "download"
	case "idle":
		return "idle"
	}
	return "report"
}

func pantavisorArch() string {
	end := "EL"
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		end = "EB"
	}
	arch := runtime.GOARCH
	if other, ok := map[string]string{"amd64": "x86_64", "386": "x86", "arm64": "aarch64"}[arch]; ok {
		arch = other
	}
	return fmt.Sprintf("%s/%d/%s", arch, strconv.IntSize, end)
}

func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	for in := bufio.NewScanner(io.LimitReader(f, 64<<10)); in.Scan(); {
		name, value, _ := strings.Cut(in.Text(), ":")
		if n := strings.TrimSpace(name); n == "model name" || n == "Model" || n == "cpu model" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func readText(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.ToValidUTF8(strings.TrimRight(string(b), "\x00\n"), "")
}

// maxInterfaces is the maximum number of network interfaces in a report: a machine may have
// thousands.
const maxInterfaces = 64

func interfaces() map[string][]string {
	found := map[string][]string{}
	list, err := net.Interfaces()
	if err != nil {
		return found
	}
	for i, card := range list {
		if i == maxInterfaces {
			break
		}
		if mac := card.HardwareAddr.String(); mac != "" {
			found[card.Name+".mac"] = []string{mac}
		}
		addresses, err := card.Addrs()
		if err != nil {
			continue
		}
		for _, address := range addresses[:min(len(addresses), 16)] {
			network, ok := address.(*net.IPNet)
			if !ok {
				continue
			}
			family := ".ipv6"
			if network.IP.To4() != nil {
				family = ".ipv4"
			}
			found[card.Name+family] = append(found[card.Name+family], network.IP.String())
		}
	}
	return found
}

func clock() map[string]any {
	now := time.Now()
	_, offset := now.Zone()
	return map[string]any{
		"timeval":  map[string]int64{"tv_sec": now.Unix(), "tv_usec": int64(now.Nanosecond() / 1000)},
		"timezone": map[string]int{"tz_minuteswest": -offset / 60, "tz_dsttime": 0},
	}
}

func sysinfo() (map[string]uint64, error) {
	var i unix.Sysinfo_t
	if err := unix.Sysinfo(&i); err != nil {
		return nil, err
	}
	return map[string]uint64{
		"uptime": uint64(i.Uptime), "loads.0": uint64(i.Loads[0]), "loads.1": uint64(i.Loads[1]), "loads.2": uint64(i.Loads[2]),
		"totalram": uint64(i.Totalram), "freeram": uint64(i.Freeram), "sharedram": uint64(i.Sharedram), "bufferram": uint64(i.Bufferram),
		"totalswap": uint64(i.Totalswap), "freeswap": uint64(i.Freeswap), "procs": uint64(i.Procs),
		"totalhigh": uint64(i.Totalhigh), "freehigh": uint64(i.Freehigh), "mem_unit": uint64(i.Unit),
	}, nil
}

// userMetaFile is the name of the file with the device's user-meta, a JSON object.
const userMetaFile = "user-meta.json"

// maxUserMeta is the hub's limit for user-meta, plus one byte for a newline.
const maxUserMeta = 256<<10 + 1

// watchUserMeta writes the user-meta to a file whenever the owner has changed it. It calls the hook
// at the start and after each change.
func (a *Agent) watchUserMeta(ctx context.Context, s *session) error {
	delivered := false
	complained := ""
	for {
		changed, err := a.fetchUserMeta(ctx, s)
		if err == nil && (changed || !delivered) {
			delivered = false
			if err = a.callUserMetaHook(ctx); err == nil {
				delivered = true
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			complained = ""
		} else if line := err.Error(); line != complained {
			complained = line
			a.say("user-meta", "Updating the user-meta failed: %s.", line)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(a.cfg.Poll*9/10 + rand.N(a.cfg.Poll/5+1)):
		}
	}
}

// fetchUserMeta gets the user-meta from the hub. If the user-meta has changed, it writes the new
// user-meta to the file.
func (a *Agent) fetchUserMeta(ctx context.Context, s *session) (changed bool, err error) {
	text, err := s.Do(ctx, http.MethodGet, "/devices/"+a.state.DeviceID+"/user-meta", nil, maxUserMeta)
	if err != nil {
		return false, err
	}
	if text, _, err = strictjson.Object(text); err != nil {
		return false, fmt.Errorf("reading the hub's answer: %w", err)
	}
	text = append(text, '\n')
	if have, err := os.ReadFile(filepath.Join(a.cfg.StateDir, userMetaFile)); err == nil && bytes.Equal(have, text) {
		return false, nil
	}
	return true, a.dir.write(userMetaFile, text)
}

// callUserMetaHook runs the hook with the arguments user-meta FILE.
func (a *Agent) callUserMetaHook(ctx context.Context) error {
	if a.cfg.UserMetaHook == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, a.cfg.UserMetaHook, "user-meta", filepath.Join(a.cfg.StateDir, userMetaFile))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("calling the hook %s: %w; the agent will call the hook again", a.cfg.UserMetaHook, err)
	}
	a.say("user-meta", "The hook %s has received the user-meta.", a.cfg.UserMetaHook)
	return nil
}
