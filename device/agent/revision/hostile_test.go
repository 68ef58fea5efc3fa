package revision

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// evilHub answers as a hub should, except where a test changes its answers.
type evilHub struct {
	t      *testing.T
	server *httptest.Server

	mu      sync.Mutex
	steps   []string          // guarded by mu: the revisions that the hub offers to the device, as JSON
	state   string            // guarded by mu: the state of the offered revision
	objects map[string]string // guarded by mu; key: the SHA-256 that the hub claims for an object; value: the object's bytes
	record  func(sum, content string) string
	blob    func(w http.ResponseWriter, r *http.Request, content string)
	reports []report // guarded by mu
	ranges  []string // guarded by mu: the Range headers of all downloads
	uploads []string // guarded by mu
	list    string   // the hub's answer to the request for the list of trails
	begun   string   // guarded by mu: the state that the trail began with
}

type report struct {
	Rev     string
	Status  string `json:"status"`
	Message string `json:"status-msg"`
	Down    struct{ Total transfer }
}

func newEvilHub(t *testing.T) *evilHub {
	h := &evilHub{t: t, objects: map[string]string{}, list: "[]\n"}
	h.record = func(sum, content string) string {
		return fmt.Sprintf(`{"sha256sum":%q,"size":"%d","signed-geturl":"https://elsewhere.example:1/local-s3/%s","objectname":"x"}`, sum, len(content), sum)
	}
	h.blob = func(w http.ResponseWriter, r *http.Request, content string) {
		w.Header().Set("ETag", `"`+filepath.Base(r.URL.Path)+`"`)
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /trails/{$}", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, h.list) })
	mux.HandleFunc("POST /trails/{$}", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.begun = string(b)
		io.WriteString(w, "{}")
	})
	mux.HandleFunc("POST /objects/{$}", func(w http.ResponseWriter, r *http.Request) {
		var o struct{ Sha256sum string }
		if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
			t.Error(err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if _, have := h.objects[o.Sha256sum]; have {
			w.WriteHeader(http.StatusConflict)
		}
		fmt.Fprintf(w, `{"sha256sum":%q,"signed-puturl":"https://elsewhere.example:1/local-s3/%s"}`, o.Sha256sum, o.Sha256sum)
	})
	mux.HandleFunc("GET /trails/dev/steps", func(w http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		fmt.Fprintf(w, "[%s]", strings.Join(h.steps, ","))
	})
	mux.HandleFunc("GET /objects/{sum}", func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		content, ok := h.objects[r.PathValue("sum")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, h.record(r.PathValue("sum"), content))
	})
	mux.HandleFunc("GET /trails/dev/steps/{rev}/state", func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		io.WriteString(w, h.state)
	})
	mux.HandleFunc("PUT /trails/dev/steps/{rev}/progress", func(w http.ResponseWriter, r *http.Request) {
		var p report
		if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
			t.Error(err)
		}
		p.Rev = r.PathValue("rev")
		h.mu.Lock()
		defer h.mu.Unlock()
		h.reports = append(h.reports, p)
		if p.Status == "DONE" || p.Status == "ERROR" || p.Status == "WONTGO" {
			// Remove the revision from the list of revisions that the hub offers. Remove only the
			// revision that the report names, because the agent may have repeated a report about an
			// earlier revision.
			h.steps = slices.DeleteFunc(h.steps, func(step string) bool { return strings.Contains(step, `"rev":`+p.Rev+`,`) })
		}
		io.WriteString(w, "{}")
	})
	mux.HandleFunc("GET /local-s3/{sum}", func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		content := h.objects[r.PathValue("sum")]
		h.ranges = append(h.ranges, r.Header.Get("Range"))
		h.mu.Unlock()
		h.blob(w, r, content)
	})
	h.server = httptest.NewServer(mux)
	t.Cleanup(h.server.Close)
	return h
}

// The type `no` is a Refusal with this HTTP status.
type no int

func (n no) Error() string   { return fmt.Sprintf("status %d", int(n)) }
func (n no) HTTPStatus() int { return int(n) }
func (n no) Temporary() bool { return n >= 500 }

func (h *evilHub) Do(ctx context.Context, method, path string, body []byte, limit int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, h.server.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		return nil, no(resp.StatusCode)
	}
	return io.ReadAll(io.LimitReader(resp.Body, limit))
}

func (h *evilHub) Upload(_ context.Context, path string, content io.ReadSeeker, size int64) error {
	b, err := io.ReadAll(content)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.uploads = append(h.uploads, string(b))
	return nil
}

func (h *evilHub) Download(ctx context.Context, path string, from int64, etag string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", h.server.URL+path, nil)
	if err != nil {
		return nil, err
	}
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
		req.Header.Set("If-Range", etag)
	}
	return http.DefaultClient.Do(req)
}

// The method `has` stores an object on the hub and returns the object's SHA-256.
func (h *evilHub) has(content string) string {
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(content)))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.objects[sum] = content
	return sum
}

func (h *evilHub) offer(rev, state string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state = state
	h.steps = []string{fmt.Sprintf(`{"rev":%s,"progress":{},"state":%s,"commit-msg":"x"}`, rev, state)}
}

func stateWith(names ...string) string {
	s := `{"#spec":"pantavisor-service-system@1"`
	for i := 0; i < len(names); i += 2 {
		s += fmt.Sprintf(",%q:%q", names[i], names[i+1])
	}
	return s + "}"
}

// device makes a follower whose hook records each call in the file `calls` and then runs the shell
// commands in `script`.
func (h *evilHub) device(script string, change func(*Config)) *Follower {
	h.t.Helper()
	dir := h.t.TempDir()
	hook := filepath.Join(dir, "hook")
	if err := os.WriteFile(hook, []byte("#!/bin/sh\necho \"$1 $GANGWAY_REV\" >>"+dir+"/calls\n"+script), 0o755); err != nil {
		h.t.Fatal(err)
	}
	cfg := Config{Dir: filepath.Join(dir, "trail"), Device: "dev", Hook: hook, Poll: 10 * time.Millisecond, Reserve: 1,
		Say: func(s string) { h.t.Log(s) }}
	if change != nil {
		change(&cfg)
	}
	f, err := Open(cfg, h)
	if err != nil {
		h.t.Fatal(err)
	}
	return f
}

// outcome runs the follower until it reports a final status.
func (h *evilHub) outcome(f *Follower) report { return h.outcomeOf(f, "") }

// outcomeOf runs the follower until the follower reports a final status of the revision `rev`. If
// `rev` is empty, a final status of any revision will do. A test that runs a follower twice must
// pass `rev`, because the second run may begin by repeating the last report of the first run. This
// happens if the first run was stopped before the journal recorded that the hub had received that
// report.
func (h *evilHub) outcomeOf(f *Follower, rev string) report {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	for {
		h.mu.Lock()
		n := len(h.reports)
		last := report{}
		if n > 0 {
			last = h.reports[n-1]
		}
		h.mu.Unlock()
		final := last.Status == "DONE" || last.Status == "ERROR" || last.Status == "WONTGO"
		if final && (rev == "" || last.Rev == rev) {
			cancel()
			if err := <-ended; err != nil {
				h.t.Error(err)
			}
			return last
		}
		select {
		case err := <-ended:
			h.t.Fatalf("it ended: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (h *evilHub) called(f *Follower) string {
	b, _ := os.ReadFile(filepath.Join(filepath.Dir(f.dir), "calls"))
	return string(b)
}

// Attack: the hub offers a state that names files outside the revision's folder, or that is invalid
// in another way. The revision fails, and the device does not call the hook.
func TestRevisionWhoseStateIsRefusedIsNotInstalled(t *testing.T) {
	t.Parallel()
	sum := strings.Repeat("a", 64)
	for state, why := range map[string]string{
		stateWith("../../escaped", sum):           "escaped",
		stateWith("a", sum, "a/b", sum):           "a file and a folder",
		`{"#spec":"pantavisor-service-system@2"}`: "#spec",
	} {
		h := newEvilHub(t)
		h.offer("1", state)
		f := h.device("", nil)
		if r := h.outcome(f); r.Status != "WONTGO" || !strings.Contains(r.Message, why) {
			t.Errorf("%s: %+v", state, r)
		}
		if calls := h.called(f); calls != "" {
			t.Errorf("the hook was called: %s", calls)
		}
	}
}

// Each object of the revision is smaller than the limit for one object, but together the objects
// exceed the limit for a revision. The device downloads none of them.
func TestRevisionWithHugeObjectsIsNotDownloaded(t *testing.T) {
	t.Parallel()
	h := newEvilHub(t)
	h.record = func(sum, _ string) string {
		return fmt.Sprintf(`{"sha256sum":%q,"size":"1099511627776","signed-geturl":"/local-s3/x"}`, sum)
	}
	h.offer("1", stateWith("a", h.has("1"), "b", h.has("2"), "c", h.has("3"), "d", h.has("4"), "e", h.has("5")))
	if r := h.outcome(h.device("", nil)); r.Status != "WONTGO" || !strings.Contains(r.Message, "more than") {
		t.Errorf("%+v", r)
	}
	if len(h.ranges) > 0 {
		t.Error("something was downloaded")
	}
}

// Attack: the hub's record of an object has a download URL on another host, elsewhere.example. The
// device downloads the object from its hub and sends nothing to that host.
func TestContentIsDownloadedFromTheHubOnly(t *testing.T) {
	t.Parallel()
	h := newEvilHub(t)
	h.offer("1", stateWith("a", h.has("content")))
	if r := h.outcome(h.device("", nil)); r.Status != "DONE" {
		t.Errorf("%+v", r)
	}
}

// If a revision does not fit on the device's disk, the revision fails and the device downloads
// nothing.
func TestRevisionThatDoesNotFitTheDiskIsNotBegun(t *testing.T) {
	t.Parallel()
	h := newEvilHub(t)
	h.offer("1", stateWith("a", h.has("content")))
	if r := h.outcome(h.device("", func(c *Config) { c.Reserve = 1 << 60 })); r.Status != "ERROR" || !strings.Contains(r.Message, "needs 7 bytes") {
		t.Errorf("%+v", r)
	}
	if len(h.ranges) > 0 {
		t.Error("something was downloaded")
	}
}

// The state names each object by its SHA-256. If the hub sends an object with another SHA-256, the
// hook never gets this object.
func TestContentThatIsNotWhatTheStateNamesIsNeverInstalled(t *testing.T) {
	t.Parallel()
	for name, lie := range map[string]func(w http.ResponseWriter, r *http.Request, content string){
		"other bytes": func(w http.ResponseWriter, _ *http.Request, content string) {
			io.WriteString(w, strings.ToUpper(content))
		},
		"longer": func(w http.ResponseWriter, _ *http.Request, content string) {
			io.WriteString(w, content+content)
		},
		"shorter": func(w http.ResponseWriter, _ *http.Request, content string) {
			io.WriteString(w, content[:3])
		},
		"no such range": func(w http.ResponseWriter, _ *http.Request, _ string) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		},
		"endless": func(w http.ResponseWriter, r *http.Request, _ string) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newEvilHub(t)
			h.blob = lie
			h.offer("1", stateWith("a", h.has("content")))
			f := h.device("", nil)
			if r := h.outcome(f); r.Status != "ERROR" || !strings.Contains(r.Message, "differs from the SHA-256 in the state") {
				t.Errorf("%+v", r)
			}
			if calls := h.called(f); calls != "" {
				t.Errorf("the hook was called: %s", calls)
			}
			if len(h.ranges) != maxWrong {
				t.Errorf("%d downloads", len(h.ranges))
			}
			left, err := os.ReadDir(f.objects.incoming)
			if err != nil || len(left) != 0 {
				t.Errorf("%d parts are left, %v", len(left), err)
			}
		})
	}
}

// If the connection breaks during a download, the device resumes the download at the first missing
// byte. If the hub answers with a range other than the one that the device requested, the device
// refuses the answer.
func TestDownloadGoesOnWhereItBroke(t *testing.T) {
	t.Parallel()
	h := newEvilHub(t)
	content := strings.Repeat("0123456789", 100_000)
	broken, lied := false, false
	good := h.blob
	h.blob = func(w http.ResponseWriter, r *http.Request, content string) {
		switch {
		case !broken:
			broken = true
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			io.WriteString(w, content[:600_000])
			panic(http.ErrAbortHandler)
		case !lied:
			lied = true
			w.Header().Set("Content-Range", "bytes 0-9/1000000")
			w.WriteHeader(http.StatusPartialContent)
			io.WriteString(w, content[:10])
		default:
			good(w, r, content)
		}
	}
	h.offer("1", stateWith("a", h.has(content)))
	f := h.device("", nil)
	if r := h.outcome(f); r.Status != "DONE" {
		t.Errorf("%+v", r)
	}
	if len(h.ranges) != 3 || h.ranges[0] != "" || !strings.HasPrefix(h.ranges[2], "bytes=") || h.ranges[1] != h.ranges[2] {
		t.Errorf("%q", h.ranges)
	}
	got, err := os.ReadFile(filepath.Join(f.folderOf(*f.journal.Current), filesName, "a"))
	if err != nil || string(got) != content {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// If the disk or a hook has damaged a stored object, the device detects the damage and downloads
// the object again.
func TestDamagedObjectIsDownloadedAgain(t *testing.T) {
	t.Parallel()
	h := newEvilHub(t)
	sum := h.has("content")
	h.offer("1", stateWith("a", sum))
	f := h.device("", nil)
	h.outcome(f)
	if err := os.Chmod(f.objects.path(sum), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.objects.path(sum), []byte("CONTENT"), 0o644); err != nil {
		t.Fatal(err)
	}
	h.reports = nil
	h.offer("2", stateWith("b", sum))
	if r := h.outcomeOf(f, "2"); r.Status != "DONE" || r.Rev != "2" {
		t.Errorf("%+v", r)
	}
	got, err := os.ReadFile(filepath.Join(f.folderOf(*f.journal.Current), filesName, "b"))
	if err != nil || string(got) != "content" || len(h.ranges) != 2 {
		t.Errorf("%q after %d downloads, %v", got, len(h.ranges), err)
	}
}

// If the device's store already has an object, the device does not download that object again, even
// if a new state gives the object another file name.
func TestObjectsAreSharedBetweenRevisions(t *testing.T) {
	t.Parallel()
	h := newEvilHub(t)
	sum := h.has("content")
	f := h.device("", nil)
	h.offer("1", stateWith("a", sum, "b", sum))
	h.outcome(f)
	h.reports = nil
	h.offer("2", stateWith("c/d", sum))
	if r := h.outcomeOf(f, "2"); r.Status != "DONE" || len(h.ranges) != 1 {
		t.Errorf("%+v, %d downloads", r, len(h.ranges))
	}
}

// The owner replaces a revision's state after the device has read the old state, and before the
// device has accepted the revision. The device must install the new state.
func TestStateExchangedBeforeItWasTakenIsTheOneInstalled(t *testing.T) {
	t.Parallel()
	h := newEvilHub(t)
	h.offer("1", stateWith("a", h.has("old")))
	h.mu.Lock()
	h.state = stateWith("a", fmt.Sprintf("%x", sha256.Sum256([]byte("new"))))
	h.mu.Unlock()
	h.has("new")
	f := h.device("", nil)
	if r := h.outcome(f); r.Status != "DONE" {
		t.Errorf("%+v", r)
	}
	got, err := os.ReadFile(filepath.Join(f.folderOf(*f.journal.Current), filesName, "a"))
	if err != nil || string(got) != "new" {
		t.Errorf("%q %v", got, err)
	}
}

// If the agent is stopped each time that it calls the hook, it repeats the call only a few times.
// Then the revision fails.
func TestHookThatStopsTheAgentIsNotCalledForEver(t *testing.T) {
	t.Parallel()
	h := newEvilHub(t)
	h.offer("1", stateWith())
	f := h.device("case $1 in commit) touch \"$2/../../../stop\"; sleep 300 ;; esac\n", nil)
	stop := filepath.Join(filepath.Dir(f.dir), "stop")
	for range maxTries {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		for {
			if os.Remove(stop) == nil {
				break
			}
			if ctx.Err() != nil {
				t.Fatal("the hook is not called")
			}
			time.Sleep(5 * time.Millisecond)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if r := h.outcome(f); r.Status != "ERROR" || !strings.Contains(r.Message, "stopped 3 times") {
		t.Errorf("%+v", r)
	}
}

// If the hook's program is missing, the device accepts no revision and tells the owner why. When
// the program is there again, the device accepts revisions again.
func TestDeviceWithoutItsHookTakesNoRevision(t *testing.T) {
	t.Parallel()
	h := newEvilHub(t)
	h.offer("1", stateWith())
	said := make(chan string, 100)
	f := h.device("", func(c *Config) { c.Say = func(s string) { said <- s } })
	if err := os.Chmod(f.cfg.Hook, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	for line := range said {
		if strings.Contains(line, "chmod +x") {
			break
		}
		if ctx.Err() != nil {
			t.Fatal("it says nothing")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(h.reports) > 0 {
		t.Errorf("%+v", h.reports)
	}
	if err := os.Chmod(f.cfg.Hook, 0o755); err != nil {
		t.Fatal(err)
	}
	f.cfg.Say = func(string) {}
	if r := h.outcome(f); r.Status != "DONE" {
		t.Errorf("%+v", r)
	}
}

// The hook starts a process that runs on after the hook has ended. The agent must not wait for the
// end of that process.
func TestWhatAHookLeavesRunningHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	h := newEvilHub(t)
	h.offer("1", stateWith())
	f := h.device("case $1 in install) sleep 60 & echo $! >\"$2/../../../left\" ;; esac\n", func(c *Config) { c.waitDelay = 500 * time.Millisecond })
	r := h.outcome(f)
	b, err := os.ReadFile(filepath.Join(filepath.Dir(f.dir), "left"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); r.Status != "DONE" || err != nil {
		t.Errorf("%+v; what it left: %v", r, err)
	}
}

// If the hub knows an object but has lost the object's bytes, the revision fails. The device still
// installs the next revision.
func TestContentThatTheHubHasLostEndsTheStep(t *testing.T) {
	t.Parallel()
	h := newEvilHub(t)
	h.blob = func(w http.ResponseWriter, _ *http.Request, _ string) { w.WriteHeader(http.StatusNotFound) }
	h.offer("1", stateWith("a", h.has("content")))
	if r := h.outcome(h.device("", nil)); r.Status != "ERROR" || !strings.Contains(r.Message, "lost the object's bytes") {
		t.Errorf("%+v", r)
	}
	h = newEvilHub(t)
	h.offer("1", stateWith("a", strings.Repeat("a", 64)))
	if r := h.outcome(h.device("", nil)); r.Status != "ERROR" || !strings.Contains(r.Message, "does not have object") {
		t.Errorf("%+v", r)
	}
}

// If a download URL has expired, the device asks for a new URL.
func TestAddressThatEndedIsAskedForAnew(t *testing.T) {
	t.Parallel()
	h := newEvilHub(t)
	good, refused := h.blob, false
	h.blob = func(w http.ResponseWriter, r *http.Request, content string) {
		if !refused {
			refused = true
			w.WriteHeader(http.StatusNotFound)
			return
		}
		good(w, r, content)
	}
	h.offer("1", stateWith("a", h.has("content")))
	if r := h.outcome(h.device("", nil)); r.Status != "DONE" {
		t.Errorf("%+v", r)
	}
}

// A hook that hangs is killed together with its child processes. The output of a hook that prints
// endlessly fills neither the device's memory nor the report.
func TestHookIsBounded(t *testing.T) {
	t.Parallel()
	h := newEvilHub(t)
	h.offer("1", stateWith())
	f := h.device(`case $1 in test) sleep 300 & wait ;; esac`, func(c *Config) { c.HookTimeout = 500 * time.Millisecond })
	if r := h.outcome(f); r.Status != "ERROR" || !strings.Contains(r.Message, "longer than 500ms") {
		t.Errorf("%+v", r)
	}
	h = newEvilHub(t)
	h.offer("1", stateWith())
	lines, longest := 0, 0
	f = h.device(`case $1 in test) yes "$(head -c 5000 /dev/zero | tr '\0' x)" | head -n 5000; exit 1 ;; esac`, func(c *Config) {
		c.Line = func(line string) { lines, longest = lines+1, max(longest, len(line)) }
	})
	if r := h.outcome(f); r.Status != "ERROR" || len(r.Message) > 4<<10+10 {
		t.Errorf("%s, %d bytes", r.Status, len(r.Message))
	}
	if lines > maxLines+1 || longest > maxLine+10 {
		t.Errorf("%d lines, the longest of %d bytes", lines, longest)
	}
}

// If the journal belongs to another device, the follower ignores it and starts a new one. If the
// journal is damaged, the error says what to do.
func TestJournalOfAnotherDeviceIsNotGoneOnWith(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.json")
	if err := os.WriteFile(path, []byte(`{"device":"other","begun":true,"step":{"rev":1,"phase":"committing"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if j, err := readJournal(path, "dev"); err != nil || j.Begun || j.Step != nil {
		t.Errorf("%+v %v", j, err)
	}
	if err := os.WriteFile(path, []byte(`{"device":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readJournal(path, "dev"); err == nil || !strings.Contains(err.Error(), "remove the file") {
		t.Errorf("%v", err)
	}
}
