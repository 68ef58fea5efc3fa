package doctor

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gangway/hub/alarm"
	"gangway/hub/backup"
	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/hub/store/sqlite"
	"gangway/hub/store/sqlite/sqlitetest"
	"gangway/internal/finding"
	"gangway/internal/hubtest"
	"gangway/internal/race"

	"golang.org/x/sys/unix"
)

// makeHub makes the data folder of a hub that does not run, and returns the path of the folder.
func makeHub(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "hub")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Open(filepath.Join(dir, pkiFolder), pki.Options{}); err != nil {
		t.Fatal(err)
	}
	// Copy an empty database, because the migrations would take most of the test's time.
	if err := sqlitetest.CopyEmpty(filepath.Join(dir, databaseFile)); err != nil {
		t.Fatal(err)
	}
	s, err := sqlite.Open(t.Context(), filepath.Join(dir, databaseFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetURLs(t.Context(), []string{"https://hub.example:12443"}); err != nil {
		t.Fatal(err)
	}
	if err := s.AppendEvent(t.Context(), store.Event{Time: time.Now(), Kind: "test", Message: "x"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// healthy returns the configuration for a hub and a machine without faults.
func healthy(dir string) Config {
	return Config{Data: dir,
		disk: func(string) (syscall.Statfs_t, error) {
			return syscall.Statfs_t{Bsize: 4096, Blocks: 10 << 20, Bavail: 5 << 20, Files: 1 << 20, Ffree: 1 << 19}, nil
		},
		clock: func() (int, unix.Timex, error) { return unix.TIME_OK, unix.Timex{Maxerror: 20_000}, nil },
	}
}

// tree returns a line for each file in a folder, with the file's name, mode, time and hash.
func tree(t *testing.T, dir string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprint(path, info.Mode(), info.ModTime())
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf("%x", sha256.Sum256(b))
		}
		list = append(list, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func codes(list []finding.Finding) (all []string) {
	for _, f := range list {
		all = append(all, fmt.Sprintf("%s:%s", f.Severity, f.Code))
	}
	return all
}

// For each fault, the doctor reports the right finding, with a remedy. Without a fault, it reports
// no problem. It never changes the data folder.
func TestFaultsAreFound(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	copyTo := func(from, to string) { must(os.CopyFS(to, os.DirFS(from))) }
	change := func(dir string, change func(*sqlite.Store) error) {
		s, err := sqlite.Open(t.Context(), filepath.Join(dir, databaseFile))
		must(err)
		must(change(s))
		must(s.Close())
	}
	backupOf := func(from string) string {
		to := filepath.Join(t.TempDir(), "backup")
		copyTo(from, to)
		must(os.Chmod(filepath.Join(to, pkiFolder), 0o700))
		files, err := filepath.Glob(filepath.Join(to, pkiFolder, "*.key"))
		must(err)
		for _, f := range files {
			must(os.Chmod(f, 0o600))
		}
		return to
	}
	// filesOf returns a folder with a backup that has a description. The doctor does not decrypt
	// the backup, so the content of its file does not matter.
	filesOf := func(from string, age time.Duration) string {
		ca, err := pki.Open(filepath.Join(from, pkiFolder), pki.Options{})
		must(err)
		begun := time.Now().Add(-age).UTC()
		path := filepath.Join(t.TempDir(), "000000002-"+begun.Format("20060102T150405Z")+backup.FileEnding)
		content := []byte("the encrypted archive")
		must(os.WriteFile(path, content, 0o600))
		d := backup.NewDescriber(path)
		_, err = d.Write(content)
		must(err)
		must(d.Finish(ca, backup.Header{Hub: ca.HubName(), Begun: begun, Objects: true}, []string{"age1one"}))
		return filepath.Dir(path)
	}
	// exportOf writes an export of the events until `age` ago beside a backup. An export of the
	// folder `from` has the keys of that hub.
	exportOf := func(folder, from string, age time.Duration) (path string) {
		ca, err := pki.Open(filepath.Join(from, pkiFolder), pki.Options{})
		must(err)
		var content bytes.Buffer
		signer := backup.NewTrailSigner(&content, ca, time.Now().Add(-14*24*time.Hour), time.Now().Add(-age))
		must(signer.Add([]byte("{}\n")))
		must(signer.Close())
		path = filepath.Join(folder, exportFile)
		must(os.WriteFile(path, content.Bytes(), 0o600))
		return path
	}
	for name, c := range map[string]struct {
		cause func(dir string, cfg *Config)
		want  string // beginning of "severity:code"; "": the only warning is that no hub runs
	}{
		"nothing":           {func(string, *Config) {}, ""},
		"open folder":       {func(d string, _ *Config) { must(os.Chmod(d, 0o755)) }, "warning:data-mode"},
		"writable folder":   {func(d string, _ *Config) { must(os.Chmod(d, 0o770)) }, "problem:data-mode"},
		"open database":     {func(d string, _ *Config) { must(os.Chmod(filepath.Join(d, databaseFile), 0o644)) }, "warning:data-mode"},
		"no keys":           {func(d string, _ *Config) { must(os.RemoveAll(filepath.Join(d, pkiFolder))) }, "problem:keys-missing"},
		"a key is missing":  {func(d string, _ *Config) { must(os.Remove(filepath.Join(d, pkiFolder, "aca.key"))) }, "problem:keys-unusable"},
		"others read a key": {func(d string, _ *Config) { must(os.Chmod(filepath.Join(d, pkiFolder, "root.key"), 0o644)) }, "problem:keys-unusable"},
		"no database":       {func(d string, _ *Config) { must(os.Remove(filepath.Join(d, databaseFile))) }, "problem:database-missing"},
		"no database but one": {func(d string, _ *Config) {
			must(os.WriteFile(filepath.Join(d, databaseFile), []byte(strings.Repeat("no", 9999)), 0o600))
		}, "problem:database-unreadable"},
		"a damaged database": {func(d string, _ *Config) { damage(t, filepath.Join(d, databaseFile)) }, "problem:database-"},
		"a crash": {func(d string, _ *Config) {
			must(os.WriteFile(filepath.Join(d, databaseFile+"-wal"), []byte("left"), 0o600))
		}, "warning:database-unclean"},
		"full":   {func(_ string, c *Config) { c.disk = diskWith(1<<17, 1<<19) }, "problem:disk-full"},
		"low":    {func(_ string, c *Config) { c.disk = diskWith(1<<19, 1<<19) }, "warning:disk-low"},
		"inodes": {func(_ string, c *Config) { c.disk = diskWith(5<<20, 50) }, "problem:disk-inodes"},
		"no inodes are counted": {func(_ string, c *Config) {
			c.disk = func(string) (syscall.Statfs_t, error) {
				return syscall.Statfs_t{Bsize: 4096, Blocks: 10 << 20, Bavail: 5 << 20}, nil
			}
		}, ""},
		"nothing sets the clock": {func(_ string, c *Config) {
			c.clock = func() (int, unix.Timex, error) { return unix.TIME_ERROR, unix.Timex{Status: unix.STA_UNSYNC}, nil }
		}, "warning:clock-unset"},
		"the clock was set back": {func(_ string, c *Config) { c.now = func() time.Time { return time.Now().Add(-time.Hour) } }, "problem:clock-back"},
		"a good backup":          {func(d string, c *Config) { c.Backup = backupOf(d) }, ""},
		"no backup":              {func(_ string, c *Config) { c.Backup = t.TempDir() }, "problem:backup-missing"},
		"an old backup": {func(d string, c *Config) {
			c.Backup = backupOf(d)
			must(os.Chtimes(filepath.Join(c.Backup, databaseFile), time.Time{}, time.Now().Add(-8*24*time.Hour)))
		}, "warning:backup-old"},
		"a recorded backup": {func(d string, _ *Config) {
			change(d, func(s *sqlite.Store) error { return s.SetLastBackup(t.Context(), time.Now()) })
		}, ""},
		"an old recorded backup": {func(d string, _ *Config) {
			change(d, func(s *sqlite.Store) error { return s.SetLastBackup(t.Context(), time.Now().Add(-8*24*time.Hour)) })
		}, "warning:backup-old"},
		"a backup without keys": {func(d string, c *Config) {
			c.Backup = backupOf(d)
			must(os.RemoveAll(filepath.Join(c.Backup, pkiFolder)))
		}, "problem:backup-keys"},
		"a damaged backup": {func(d string, c *Config) {
			c.Backup = backupOf(d)
			must(os.Truncate(filepath.Join(c.Backup, databaseFile), 5000))
		}, "problem:backup-damaged"},
		"a good backup file": {func(d string, c *Config) { c.Backup = filesOf(d, 0) }, ""},
		"an old backup file": {func(d string, c *Config) { c.Backup = filesOf(d, 8*24*time.Hour) }, "warning:backup-old"},
		"a damaged backup file": {func(d string, c *Config) {
			c.Backup = filesOf(d, 0)
			path, err := backup.Newest(c.Backup)
			must(err)
			must(os.WriteFile(path, []byte("tHe encrypted archive"), 0o600))
		}, "problem:backup-damaged"},
		"a backup file of another hub": {func(_ string, c *Config) { c.Backup = filesOf(makeHub(t), 0) }, "problem:backup-other"},
		"the newest backup file is elsewhere": {func(d string, c *Config) {
			c.Backup = filesOf(d, time.Hour)
			change(d, func(s *sqlite.Store) error { return s.SetLastBackup(t.Context(), time.Now()) })
		}, "warning:backup-missing"},
		"a backup file without a description": {func(d string, c *Config) {
			c.Backup = filesOf(d, 0)
			path, err := backup.Newest(c.Backup)
			must(err)
			must(os.Remove(path + ".info"))
		}, "note:backup-undescribed"},
		"a new export": {func(d string, c *Config) {
			c.Backup = filesOf(d, 0)
			exportOf(c.Backup, d, 10*time.Minute)
		}, "ok:export"},
		"no export": {func(d string, c *Config) { c.Backup = filesOf(d, 0) }, "note:export-missing"},
		"exports have stopped": {func(d string, c *Config) {
			c.Backup = filesOf(d, 0)
			exportOf(c.Backup, d, 2*time.Hour)
		}, "problem:export-old"},
		"an empty export": {func(d string, c *Config) {
			c.Backup = filesOf(d, 0)
			must(os.WriteFile(filepath.Join(c.Backup, exportFile), nil, 0o600))
		}, "problem:export-old"},
		"somebody removed an event from the export": {func(d string, c *Config) {
			c.Backup = filesOf(d, 0)
			path := exportOf(c.Backup, d, 0)
			content, err := os.ReadFile(path)
			must(err)
			must(os.WriteFile(path, bytes.TrimPrefix(content, []byte("{}\n")), 0o600))
		}, "problem:export-damaged"},
		"an export of another hub": {func(d string, c *Config) {
			c.Backup = filesOf(d, 0)
			exportOf(c.Backup, makeHub(t), 0)
		}, "problem:export-damaged"},
		"an export that is a folder": {func(d string, c *Config) {
			c.Backup = filesOf(d, 0)
			must(os.Mkdir(filepath.Join(c.Backup, exportFile), 0o700))
		}, "problem:export-unreadable"},
		"another hub's backup": {func(_ string, c *Config) { c.Backup = makeHub(t) }, "problem:backup-other"},
	} {
		dir := makeHub(t)
		cfg := healthy(dir)
		c.cause(dir, &cfg)
		before := tree(t, dir)
		found := Examine(t.Context(), cfg)
		if after := tree(t, dir); !slices.Equal(before, after) {
			t.Errorf("%s: the doctor changed the folder:\n%q\n%q", name, before, after)
		}
		hit := false
		for _, f := range found {
			code := fmt.Sprintf("%s:%s", f.Severity, f.Code)
			hit = hit || c.want != "" && strings.HasPrefix(code, c.want)
			if bad := f.Severity == finding.Warning || f.Severity == finding.Problem; bad && f.Remedy == "" {
				t.Errorf("%s: %s has no remedy", name, f.Code)
			} else if bad && c.want == "" && f.Code != "hub-stopped" {
				t.Errorf("%s: found %s: %s %s", name, code, f.Fact, f.Cause)
			}
			if !strings.HasSuffix(f.Fact, ".") {
				t.Errorf("%s: %q is no sentence", name, f.Fact)
			}
		}
		if c.want != "" && !hit {
			t.Errorf("%s: found %q, want %s", name, codes(found), c.want)
		}
	}
}

// The doctor lists the alarms of the running hub, each with a remedy. If the doctor's own checks
// find the same condition, it does not list the alarm.
func TestDoctorListsTheHubsAlarms(t *testing.T) {
	t.Parallel()
	dir := makeHub(t)
	s, err := sqlite.Open(t.Context(), filepath.Join(dir, databaseFile))
	if err != nil {
		t.Fatal(err)
	}
	list := []store.Alarm{{Name: "of-a-later-version", Since: time.Now(), Fact: "It is so."}}
	for _, r := range alarm.Rules {
		list = append(list, store.Alarm{Name: r.Name, Since: time.Now(), Fact: "It is so."})
	}
	if _, err := s.SetAlarms(t.Context(), list, func(store.Alarm, bool) store.Event { return store.Event{Time: time.Now(), Kind: "alarm.begins"} }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	cfg := healthy(dir)
	cfg.disk = diskWith(1<<19, 1<<19)
	cfg.clock = func() (int, unix.Timex, error) { return unix.TIME_ERROR, unix.Timex{Status: unix.STA_UNSYNC}, nil }
	own := map[string]string{"disk-low": "disk-low", "clock-drift": "clock-unset"}
	found := Examine(t.Context(), cfg)
	for _, r := range alarm.Rules {
		want, others := "alarm-"+r.Name, own[r.Name]
		if others != "" {
			want, others = others, want
		}
		i := slices.IndexFunc(found, func(f finding.Finding) bool { return f.Code == want })
		if i < 0 || found[i].Severity != finding.Warning || found[i].Remedy == "" {
			t.Errorf("no warning %s with a remedy in %q", want, codes(found))
		}
		if others != "" && slices.ContainsFunc(found, func(f finding.Finding) bool { return f.Code == others }) {
			t.Errorf("the doctor says both %s and %s", want, others)
		}
	}
	if slices.ContainsFunc(found, func(f finding.Finding) bool { return f.Code == "alarm-of-a-later-version" }) {
		t.Error("the doctor shows an alarm for which it has no remedy")
	}
}

func diskWith(free, inodes uint64) func(string) (syscall.Statfs_t, error) {
	return func(string) (syscall.Statfs_t, error) {
		return syscall.Statfs_t{Bsize: 4096, Blocks: 10 << 20, Bavail: free, Files: 1 << 20, Ffree: inodes}, nil
	}
}

// damage overwrites pages in the middle of a database.
func damage(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(strings.Repeat("broken", 8000)), info.Size()/2); err != nil {
		t.Fatal(err)
	}
}

// The check of a large database ends after CheckTime, and the finding says that the check did not
// finish.
func TestCheckOfTheDatabaseEnds(t *testing.T) {
	t.Parallel()
	e := &exam{Config: healthy(makeHub(t))}
	e.CheckTime = time.Nanosecond
	found := checkDatabase(t.Context(), e)
	if len(found) != 1 || found[0].Code != "database-unchecked" || e.database == nil || len(e.database.URLs) != 1 {
		t.Errorf("%+v", found)
	}
}

// The doctor connects to the hub's URL and verifies the certificate as a device does.
func TestURLsAreExamined(t *testing.T) {
	t.Parallel()
	h, other := hubtest.New(t, nil, nil), hubtest.New(t, nil, nil)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(h.URL, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	proxy := ownProxy(t, h.CA)
	for _, c := range []struct {
		url   string
		later time.Duration
		want  string
	}{
		{h.URL, 0, "url"},
		{proxy, 0, "url"},
		{proxy, 80 * 24 * time.Hour, "certificate-expires"},
		{other.URL, 0, "url-other"},
		{"https://localhost:" + port, 0, "url-name"},
		{"https://" + closed.Addr().String(), 0, "url-unreachable"},
		{"https://gangway.invalid:12443", 0, "url-lookup"},
		{h.URL, 80 * 24 * time.Hour, "certificate-expires"},
		{h.URL, 100 * 24 * time.Hour, "url-expired"},
	} {
		e := &exam{Config: Config{now: func() time.Time { return time.Now().Add(c.later) }}, roots: x509.NewCertPool()}
		e.roots.AddCert(h.CA.Root())
		got := e.checkURL(t.Context(), c.url)
		if got.Code != c.want {
			t.Errorf("%s after %s: found %+v, want %s", c.url, c.later, got, c.want)
		}
		if c.url == proxy && !strings.Contains(got.Fact+got.Cause, "othing renews it") && !strings.Contains(got.Cause, "does not renew this certificate") {
			t.Errorf("the finding about the proxy's certificate does not say that nothing renews it: %+v", got)
		}
	}
}

// ownProxy starts a proxy with a certificate from the hub's CA, and returns the URL of the proxy.
func ownProxy(t *testing.T, ca *pki.Hub) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, new(x509.CertificateRequest), key)
	if err != nil {
		t.Fatal(err)
	}
	_, leaf, err := ca.IssueProxy(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}), []string{"127.0.0.1"}, time.Now(), 90*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // the doctor closes its connections after the handshake
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}

// The doctor finds a running hub in the kernel's list of locks, and does not try to lock the hub's
// lock file.
func TestRunningHubIsFound(t *testing.T) {
	t.Parallel()
	lock := filepath.Join(t.TempDir(), serveFile)
	if _, held := serving("/proc", lock); held {
		t.Error("a lock that is not there is held")
	}
	f, err := os.Create(lock)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, held := serving("/proc", lock); held {
		t.Error("a free lock is held")
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if pid, held := serving("/proc", lock); !held || pid != os.Getpid() {
		t.Errorf("the lock is held: %t, by %d; want %d", held, pid, os.Getpid())
	}
}

// The doctor finds the addresses at which this process listens, with IPv4 and IPv6.
func TestListenersAreRead(t *testing.T) {
	t.Parallel()
	var want []string
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Logf("no %s here: %v", address, err)
			continue
		}
		defer l.Close()
		want = append(want, l.Addr().String())
	}
	list, err := listening("/proc", os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range want {
		if !slices.Contains(list, netip.MustParseAddrPort(w)) {
			t.Errorf("%s is not in %v", w, list)
		}
	}
}

// The doctor finds an address that answers requests for metrics in plain HTTP, and accepts an
// address that answers only with TLS.
func TestPlainMetricsAreFound(t *testing.T) {
	t.Parallel()
	h := hubtest.New(t, nil, nil)
	metrics := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			http.NotFound(w, r)
		}
	}))
	defer metrics.Close()
	for address, want := range map[string]bool{strings.TrimPrefix(metrics.URL, "http://"): true, strings.TrimPrefix(h.URL, "https://"): false} {
		if got := plain(t.Context(), netip.MustParseAddrPort(address)); got != want {
			t.Errorf("%s answers in plain: %t, want %t", address, got, want)
		}
	}
}

// The doctor reports a hub that may open too few files, and a hub that has nearly as many open
// files as it may have.
func TestFilesOfTheProcess(t *testing.T) {
	t.Parallel()
	for limits, want := range map[string]string{
		"Max open files            1024                 524288               files\n":      "files-limit",
		"Max open files            65536                524288               files\n":      "process",
		"Max open files            unlimited            unlimited            files\n":      "process",
		"Max open files            10                   524288               files\n":      "files-used-up",
		"Max cpu time              unlimited            unlimited            seconds\nx\n": "process",
	} {
		proc := t.TempDir()
		if err := os.MkdirAll(filepath.Join(proc, "77", "fd"), 0o700); err != nil {
			t.Fatal(err)
		}
		for n := range 9 {
			if err := os.WriteFile(filepath.Join(proc, "77", "fd", fmt.Sprint(n)), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(proc, "77", "limits"), []byte(limits), 0o600); err != nil {
			t.Fatal(err)
		}
		if found := checkProcess(context.Background(), &exam{Config: Config{proc: proc}, pid: 77, served: true}); found[0].Code != want {
			t.Errorf("%q: found %s, want %s", limits, found[0].Code, want)
		}
	}
}
