package api_test

import (
	"database/sql"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/internal/brief"
	"gangway/internal/hubtest"

	_ "modernc.org/sqlite"
)

// onSmallDisk returns a fleet whose hub has its data on a separate disk of `mib` MiB, and the
// folder of that data.
func onSmallDisk(t *testing.T, mib int) (*fleetScene, string) {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=700", mib)); err != nil {
		t.Skipf("a small disk cannot be mounted here (%v): needs root", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	maker := must(goodMaker())(t)
	h := hubtest.Open(t, dir, nil, maker.Roots(), maker.Intermediates())
	return newFleetOn(t, h, maker), dir
}

func ready(p *person) (int, string) {
	status, body := p.do("GET", "/readyz", nil)
	return status, string(body)
}

// One owner fills the disk with uploads, which the hub refuses as soon as only the reserve is free.
// Another owner can still create tokens, send logs and sign out.
func TestUploadsStopBeforeTheDiskIsFull(t *testing.T) {
	t.Parallel()
	f, _ := onSmallDisk(t, 64)
	big := strings.Repeat("0123456789abcdef", 64<<10) // 1 MiB
	stopped := 0
	for i := range 80 {
		content := fmt.Sprint(i) + big
		o := announce(f.ada, "/objects/", "x", content, 200)
		status, body, header := send(f.ada, "PUT", o.PutURL, content)
		if status == 200 && stopped > 0 {
			t.Fatalf("upload %d was accepted after others were refused", i)
		}
		if status != 200 {
			if status != http.StatusInsufficientStorage || header.Get("Retry-After") == "" || !strings.Contains(string(body), "storage-full") {
				t.Fatalf("upload %d: %d %s", i, status, body)
			}
			if stopped++; stopped == 3 {
				break
			}
		}
	}
	if stopped == 0 {
		t.Fatal("the uploads did not stop")
	}
	// The second owner notices nothing.
	eve := f.person(t, "mallory")
	want[api.JoinTokenCreated](eve, "POST", "/devices/tokens", api.NewJoinToken{Nick: "t"}, 200)
	want[map[string]string](f.pirate, "POST", "/logs/", `{"msg":"m"}`, 200)
	if status, _ := eve.do("POST", "/auth/logout", nil); status != 200 {
		t.Errorf("sign-out: %d", status)
	}
	if status, body := ready(f.ada); status != 200 || !strings.Contains(body, "degraded") {
		t.Errorf("/readyz: %d %s", status, body)
	}
}

// Another program fills the hub's disk completely. The hub loses no data that it has acknowledged,
// and people can still sign in, sign out and revoke a device's certificate.
func TestFullDiskStopsWhatGrowsAndNotWhatEnds(t *testing.T) {
	t.Parallel()
	f, dir := onSmallDisk(t, 64)
	time.Sleep(1100 * time.Millisecond)
	ready(f.ada) // creates the ballast file
	if _, err := os.Stat(filepath.Join(dir, "ballast")); err != nil {
		t.Fatal(err)
	}
	acknowledged := want[api.JoinTokenCreated](f.ada, "POST", "/devices/tokens", api.NewJoinToken{Nick: "kept"}, 200)
	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	block := make([]byte, 4096)
	for err == nil {
		_, err = filler.Write(block)
	}
	time.Sleep(1100 * time.Millisecond) // until the hub checks the disk again
	if status, body := ready(f.ada); status != 503 || !strings.Contains(body, "disk is full") {
		t.Errorf("/readyz: %d %s", status, body)
	}
	// The hub refuses requests that add data, and says when to retry.
	for path, body := range map[string]any{
		"/devices/tokens": api.NewJoinToken{Nick: "more"},
		"/objects/":       map[string]any{"objectname": "x", "size": 1, "sha256sum": strings.Repeat("0d", 32)},
	} {
		if got := wantCode(f.ada, "POST", path, body, http.StatusInsufficientStorage); got != "storage-full" {
			t.Errorf("%s: %s", path, got)
		}
	}
	wantCode(f.boat, "POST", "/logs/", `{"msg":"m"}`, http.StatusInsufficientStorage)
	wantCode(f.boat, "PATCH", "/device/meta", `{"a":1}`, http.StatusInsufficientStorage)
	// Reads still work, and so do requests that delete data or end access.
	want[[]api.DeviceView](f.ada, "GET", "/devices", nil, 200)
	for range 5 {
		p := f.person(t, "ada") // signs in
		if status, body := p.do("POST", "/auth/logout", nil); status != 200 {
			t.Fatalf("sign-out: %d %s", status, body)
		}
		wantCode(p, "GET", "/devices", nil, 401)
	}
	if status, body := f.ada.do("DELETE", "/devices/tokens/"+acknowledged.ID, nil); status != 200 {
		t.Errorf("disabling a token: %d %s", status, body)
	}
	if status, body := f.ada.do("DELETE", "/devices/"+f.boatID, nil); status != 200 {
		t.Errorf("deleting a device: %d %s", status, body)
	}
	if status, _ := f.boat.do("GET", "/device", nil); status == 200 {
		t.Error("the deleted device is still admitted")
	}
	// When the disk has room again, everything works.
	filler.Close()
	if err := os.Remove(filler.Name()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond)
	if status, body := ready(f.ada); status != 200 || !strings.Contains(body, `"ready"`) {
		t.Errorf("/readyz: %d %s", status, body)
	}
	want[api.JoinTokenCreated](f.ada, "POST", "/devices/tokens", api.NewJoinToken{Nick: "more"}, 200)
	tokens := want[[]api.JoinTokenView](f.ada, "GET", "/devices/tokens", nil, 200)
	kept := 0
	for _, v := range tokens {
		if v.ID == acknowledged.ID && v.Disabled {
			kept++
		}
	}
	if kept != 1 {
		t.Errorf("the token from before is not disabled: %s", brief.Of(tokens))
	}
}

// openDatabase opens the database of a running hub. A statement waits up to 10 s for the hub's
// writes.
func openDatabase(t testing.TB, folder string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(folder, "gangway.db")+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// While another program locks the database, reads continue. The hub refuses a write with
// Retry-After, without writing anything. A request that ends access, such as a sign-out, waits for
// the lock to end.
func TestLockedDatabaseIsSaidToBeBusy(t *testing.T) {
	t.Parallel()
	f := newFleetOnDisk(t)
	db := openDatabase(t, f.Data())
	db.SetMaxOpenConns(1)
	if _, err := db.Exec("BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	signedOut := make(chan int)
	leaving := f.person(t, "") // this person signs in before the lock, and signs out during the lock
	leaving.token = f.mallory.token
	go func() {
		status, _ := leaving.do("POST", "/auth/logout", nil)
		signedOut <- status
	}()
	if status, body := ready(f.ada); status != 503 || !strings.Contains(body, "locked by another program") {
		t.Errorf("/readyz: %d %s", status, body)
	}
	want[[]api.DeviceView](f.ada, "GET", "/devices", nil, 200)
	status, body, header := f.ada.request("POST", "/devices/tokens", nil, map[string]string{"nick": "refused"})
	if status != 503 || header.Get("Retry-After") == "" || !strings.Contains(string(body), "store-busy") {
		t.Errorf("a token: %d %s", status, body)
	}
	if _, err := db.Exec("COMMIT"); err != nil {
		t.Fatal(err)
	}
	if status := <-signedOut; status != 200 {
		t.Errorf("sign-out: %d", status)
	}
	wantCode(f.mallory, "GET", "/devices", nil, 401)
	if status, body := ready(f.ada); status != 200 {
		t.Errorf("/readyz: %d %s", status, body)
	}
	for _, v := range want[[]api.JoinTokenView](f.ada, "GET", "/devices/tokens", nil, 200) {
		if v.Nick == "refused" {
			t.Error("the refused write was done")
		}
	}
}

// When the database is slow, each write is either done exactly once or refused.
func TestSlowDatabaseLosesNothing(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("waits for locks for 15 seconds; TestLockedDatabaseIsSaidToBeBusy refuses a write and looks that it was not done")
	}
	f := newFleetOnDisk(t)
	db := openDatabase(t, f.Data())
	db.SetMaxOpenConns(1)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := db.Exec("BEGIN IMMEDIATE"); err != nil {
				continue
			}
			time.Sleep(300 * time.Millisecond)
			db.Exec("COMMIT")
			time.Sleep(10 * time.Millisecond)
		}
	}()
	made := map[string]bool{}
	for i := range 12 {
		nick := fmt.Sprintf("token-%d", i)
		status, body := f.ada.do("POST", "/devices/tokens", api.NewJoinToken{Nick: nick})
		if status != 200 && status != 503 {
			t.Errorf("%d %s", status, body)
		}
		made[nick] = status == 200
		want[[]api.DeviceView](f.ada, "GET", "/devices", nil, 200)
	}
	close(stop)
	<-stopped
	found := map[string]int{}
	for _, v := range want[[]api.JoinTokenView](f.ada, "GET", "/devices/tokens", nil, 200) {
		found[v.Nick]++
	}
	done := 0
	for nick, ok := range made {
		if ok {
			done++
		}
		if found[nick] != map[bool]int{true: 1}[ok] {
			t.Errorf("%s: success is %v, but %d are stored", nick, ok, found[nick])
		}
	}
	if done == 0 {
		t.Error("no write succeeded")
	}
}
