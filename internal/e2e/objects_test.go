package e2e_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gangway/internal/brief"
)

// objectSize is the size of each object in these tests, in bytes.
const objectSize = 4 << 20

// startHubProcess starts a real `gangway serve` process. It returns the process and a client that
// is signed in with the only account.
func startHubProcess(t *testing.T) (*hubProcess, *uploader) {
	t.Helper()
	needFullRun(t)
	dir := t.TempDir()
	h := &hubProcess{t: t, bin: filepath.Join(dir, "gangway"), data: filepath.Join(dir, "hub")}
	buildGangway(t, h.bin)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addr().String()
	l.Close()
	h.start()
	t.Cleanup(func() { h.kill() })
	h.run("correct horse battery\n", "account", "create", "--data", h.data, "--nick", "ada", "--password-stdin")
	ca, err := os.ReadFile(filepath.Join(h.data, "pki", "root.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	u := &uploader{url: "https://" + h.addr, client: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, MaxIdleConnsPerHost: 16}}}
	t.Cleanup(u.client.CloseIdleConnections)
	status, answer, err := u.call(t.Context(), "POST", "/auth/login", []byte(`{"username":"ada","password":"correct horse battery"}`))
	var session struct{ Token string }
	if err != nil || status != 200 || json.Unmarshal(answer, &session) != nil {
		t.Fatalf("signing in: %d %s %v", status, brief.Of(answer), err)
	}
	u.token = session.Token
	return h, u
}

// uploader is a client with which an owner uploads and downloads objects.
type uploader struct {
	url    string
	client *http.Client
	token  string
}

func (u *uploader) call(ctx context.Context, method, path string, body []byte) (int, []byte, error) {
	address, inner := path, !strings.HasPrefix(path, "https://")
	if inner {
		address = u.url + path
	}
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if inner && u.token != "" {
		req.Header.Set("Authorization", "Bearer "+u.token)
	}
	resp, err := u.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, b, err
}

// content returns the content and the SHA-256 of the n-th object. The content depends only on n.
func content(n int) ([]byte, [32]byte) {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], uint64(n))
	b := make([]byte, objectSize)
	rand.NewChaCha8(seed).Read(b)
	return b, sha256.Sum256(b)
}

type access struct {
	PutURL string `json:"signed-puturl"`
	GetURL string `json:"signed-geturl"`
}

func (u *uploader) upload(ctx context.Context, b []byte, sum [32]byte) error {
	status, answer, err := u.call(ctx, "POST", "/objects/", fmt.Appendf(nil, `{"objectname":"piece","size":"%d","sha256sum":"%x"}`, len(b), sum))
	if err != nil {
		return err
	}
	if status == 409 {
		return nil
	}
	var a access
	if err := json.Unmarshal(answer, &a); status != 200 || err != nil {
		return fmt.Errorf("POST /objects/: %d %s", status, brief.Of(answer))
	}
	if status, answer, err = u.call(ctx, "PUT", a.PutURL, b); err != nil {
		return err
	}
	if status != 200 {
		return fmt.Errorf("PUT: %d %s", status, brief.Of(answer))
	}
	return nil
}

func (u *uploader) download(ctx context.Context, sum [32]byte) (status int, err error) {
	status, answer, err := u.call(ctx, "GET", fmt.Sprintf("/objects/%x", sum), nil)
	var a access
	if err != nil || status != 200 {
		return status, err
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return 0, err
	}
	status, b, err := u.call(ctx, "GET", a.GetURL, nil)
	if err == nil && status == 200 && sha256.Sum256(b) != sum {
		err = fmt.Errorf("the download has another SHA-256 than the upload: %d bytes", len(b))
	}
	return status, err
}

// processMemory returns a field of /proc/PID/status in KiB.
func processMemory(t *testing.T, pid int, field string) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s of process %d", field, pid)
	return 0
}

// The hub's memory stays below 100 MiB while owners upload and download many objects.
// GANGWAY_LOAD_MIB sets their total size in MiB; `make load-objects` uses 10 GiB. The test is not
// parallel, because it measures throughput.
func TestObjectsGoThroughLittleMemory(t *testing.T) {
	total := 64
	if v := os.Getenv("GANGWAY_LOAD_MIB"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 4 {
			t.Fatalf("GANGWAY_LOAD_MIB=%q is not a number of MiB from 4 on", v)
		}
		total = n
	}
	h, u := startHubProcess(t)
	pid := h.cmd.Process.Pid
	// Measure memory from here on, because the hashing of the password at the sign-in used 64 MiB.
	before := processMemory(t, pid, "VmRSS")
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		t.Skipf("this system cannot reset the peak of a process's memory: %v", err)
	}
	pieces := total << 20 / objectSize
	each := func(what string, f func(n int) error) {
		t.Helper()
		start := time.Now()
		var next atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for n := int(next.Add(1)) - 1; n < pieces && !t.Failed(); n = int(next.Add(1)) - 1 {
					if err := f(n); err != nil {
						t.Errorf("%s of object %d: %v", what, n, err)
					}
				}
			})
		}
		wg.Wait()
		took := time.Since(start)
		t.Logf("%s: %d MiB in %.1f s, %.0f MiB/s; resident %d MiB, peak %d MiB", what, total, took.Seconds(), float64(total)/took.Seconds(),
			processMemory(t, pid, "VmRSS")>>10, processMemory(t, pid, "VmHWM")>>10)
	}
	each("upload", func(n int) error {
		b, sum := content(n)
		return u.upload(t.Context(), b, sum)
	})
	each("download", func(n int) error {
		_, sum := content(n)
		status, err := u.download(t.Context(), sum)
		if err == nil && status != 200 {
			err = fmt.Errorf("GET: %d", status)
		}
		return err
	})
	if peak := processMemory(t, pid, "VmHWM") >> 10; peak >= 100 {
		t.Errorf("the hub's memory peaked at %d MiB, from %d MiB before; want below 100 MiB", peak, before>>10)
	}
}

// The hub loses no object when it is killed (SIGKILL) at random moments during uploads. Every
// object whose upload the hub confirmed is stored completely. Every other object is stored
// completely or not at all. The test is not parallel, because the hub must make progress between
// two kills.
func TestKilledHubLosesNoObject(t *testing.T) {
	h, u := startHubProcess(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	const enough = 4
	var kills, next, broken atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for kills.Load() < enough {
				n := int(next.Add(1)) - 1
				b, sum := content(n)
				for u.upload(ctx, b, sum) != nil {
					broken.Add(1)
					if ctx.Err() != nil {
						t.Errorf("object %d could not be uploaded", n)
						return
					}
					time.Sleep(20 * time.Millisecond)
				}
			}
		})
	}
	// The last kill must interrupt uploads too. The workers retry these uploads before they end.
	for kills.Load() < enough {
		time.Sleep(100*time.Millisecond + rand.N(300*time.Millisecond))
		h.kill()
		kills.Add(1)
		checkObjects(t, h.data)
		h.start()
	}
	wg.Wait()
	pieces := int(next.Load())
	t.Logf("%d objects, %d interrupted uploads", pieces, broken.Load())
	if pieces < enough || broken.Load() == 0 {
		t.Errorf("%d objects, %d interrupted uploads: want at least %d and 1", pieces, broken.Load(), enough)
	}
	for n := range pieces {
		_, sum := content(n)
		if status, err := u.download(ctx, sum); err != nil || status != 200 {
			t.Errorf("download of the acknowledged object %d: status %d, %v", n, status, err)
		}
	}
	if left, err := os.ReadDir(filepath.Join(h.data, "objects", "incoming")); err != nil || len(left) != 0 {
		t.Errorf("%d partial uploads are left, %v", len(left), err)
	}
}

// checkObjects checks that the content of each object's file has the SHA-256 in the file's name.
func checkObjects(t *testing.T, data string) {
	t.Helper()
	dir := filepath.Join(data, "objects")
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		sum, err := hex.DecodeString(strings.ReplaceAll(name, string(filepath.Separator), ""))
		if err != nil || len(sum) != 32 {
			return nil // skip the lock file and partial uploads
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if sha256.Sum256(b) != [32]byte(sum) {
			t.Errorf("object %s has another SHA-256: %d bytes", name, len(b))
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
