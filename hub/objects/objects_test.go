package objects_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"

	"gangway/hub/objects"
	"gangway/internal/versity"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// Both engines must pass the same tests. The S3 engine is tested with a server in this process, and
// with a real server.
func TestEngines(t *testing.T) {
	t.Parallel()
	for _, engine := range []struct {
		name  string
		start func(t *testing.T) (open func(t *testing.T) objects.Store)
	}{
		{"Folder", func(*testing.T) func(*testing.T) objects.Store {
			return func(t *testing.T) objects.Store { return folder(t, filepath.Join(t.TempDir(), "objects")) }
		}},
		{"S3", func(*testing.T) func(*testing.T) objects.Store { return s3 }},
		{"S3OfVersity", s3OfVersity},
	} {
		t.Run(engine.name, func(t *testing.T) {
			open := engine.start(t)
			for _, test := range []struct {
				name string
				run  func(*testing.T, objects.Store)
			}{
				{"KeepsWhatItWasGiven", keepsWhatItWasGiven},
				{"RefusesWhatWasNotAnnounced", refusesWhatWasNotAnnounced},
				{"BrokenUploadLeavesNothing", brokenUploadLeavesNothing},
				{"BadUploadLeavesTheGoodOne", badUploadLeavesTheGoodOne},
				{"ManyAtOnce", manyAtOnce},
				{"DeletedWhileOpen", deletedWhileOpen},
				{"LateRemovalLeavesTheNewCopy", lateRemovalLeavesTheNewCopy},
				{"UploadInParts", uploadInParts},
			} {
				t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
			}
		})
	}
}

func folder(t *testing.T, dir string) *objects.Folder {
	t.Helper()
	f, err := objects.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// s3 opens the S3 engine on an S3 server that runs in this process. At the end of the test, it
// checks that no temporary file is left.
func s3(t *testing.T) objects.Store {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("fleet"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(gofakes3.New(backend).Server())
	t.Cleanup(server.Close)
	c := objects.S3Config{Endpoint: server.URL, Region: "us-east-1", Bucket: "fleet", Prefix: "hub/", AccessKey: "key", SecretKey: "secret", Spool: t.TempDir(), Transport: server.Client().Transport}
	s, err := objects.OpenS3(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left, _ := os.ReadDir(c.Spool); len(left) != 0 {
			t.Errorf("left in the spool: %v", left)
		}
	})
	return s
}

// s3OfVersity starts a real S3 server, which runs until the end of the test. The returned function
// opens the S3 engine on a new bucket of this server.
func s3OfVersity(t *testing.T) func(t *testing.T) objects.Store {
	if testing.Short() {
		t.Skip("builds an S3 server, which takes minutes the first time")
	}
	server := versity.Start(t, filepath.Join("..", ".."))
	buckets := 0
	return func(t *testing.T) objects.Store {
		buckets++
		c := objects.S3Config{Endpoint: server.Endpoint, Region: versity.Region, Bucket: fmt.Sprint("fleet", buckets), Prefix: "hub/", AccessKey: versity.AccessKey, SecretKey: versity.SecretKey, Spool: t.TempDir()}
		server.MakeBucket(t, c.Bucket)
		s, err := objects.OpenS3(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
}

// place is the Key.Place of every object in tests that store only one copy of each object.
const place = "AAAABBBBCCCCDDDDEEEEFFFF23"

func content(seed string, size int) (objects.Key, []byte) {
	b := bytes.Repeat([]byte(seed+"\n"), size/(len(seed)+1)+1)[:size]
	return objects.Key{Sum: sha256.Sum256(b), Place: place}, b
}

func put(t *testing.T, s objects.Store, b []byte) objects.Key {
	t.Helper()
	key := objects.Key{Sum: sha256.Sum256(b), Place: place}
	if err := s.Put(t.Context(), key, int64(len(b)), bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	return key
}

func read(t *testing.T, s objects.Store, key objects.Key) []byte {
	t.Helper()
	r, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func walk(t *testing.T, s objects.Store) map[objects.Key]int64 {
	t.Helper()
	found := map[objects.Key]int64{}
	if err := s.Walk(t.Context(), func(key objects.Key, i objects.Info) error {
		if i.Modified.IsZero() {
			t.Error("no time")
		}
		found[key] = i.Size
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

func keepsWhatItWasGiven(t *testing.T, s objects.Store) {
	// An object of the last size is so large that the S3 engine uploads it in two parts.
	for _, size := range []int{0, 1, 4096, 5<<20 + 7, 17 << 20} {
		sum, b := content("kept", size)
		put(t, s, b)
		put(t, s, b) // a second upload of the same object
		if got := read(t, s, sum); !bytes.Equal(got, b) {
			t.Errorf("%d bytes came back as %d others", size, len(got))
		}
		if info, err := s.Stat(t.Context(), sum); err != nil || info.Size != int64(size) {
			t.Errorf("%+v, %v", info, err)
		}
		r, err := s.Open(t.Context(), sum)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := r.Seek(int64(size)/2, io.SeekStart); err != nil || n != int64(size)/2 {
			t.Fatal(n, err)
		}
		if rest, err := io.ReadAll(r); err != nil || !bytes.Equal(rest, b[size/2:]) {
			t.Errorf("from the middle: %d bytes, %v", len(rest), err)
		}
		r.Close()
	}
	found := walk(t, s)
	if len(found) != 5 {
		t.Errorf("%d contents are there, not 5", len(found))
	}
	for sum := range found {
		for range 2 {
			if err := s.Delete(t.Context(), sum); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Open(t.Context(), sum); !errors.Is(err, objects.ErrNotFound) {
			t.Error(err)
		}
		if _, err := s.Stat(t.Context(), sum); !errors.Is(err, objects.ErrNotFound) {
			t.Error(err)
		}
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func refusesWhatWasNotAnnounced(t *testing.T, s objects.Store) {
	sum, b := content("announced", 100_000)
	other := bytes.Clone(b)
	other[len(other)-1] ^= 1
	for _, c := range []struct {
		name  string
		size  int64
		bytes []byte
		want  error
	}{
		{"short", int64(len(b)), b[:len(b)-1], objects.ErrSize},
		{"empty", int64(len(b)), nil, objects.ErrSize},
		{"one byte too many", int64(len(b)), append(bytes.Clone(b), 0), objects.ErrSize},
		{"much too many", 10, b, objects.ErrSize},
		{"negative", -1, nil, objects.ErrSize},
		{"altered", int64(len(b)), other, objects.ErrSum},
		{"announced as less than it is", int64(len(b) - 1), b[:len(b)-1], objects.ErrSum},
	} {
		if err := s.Put(t.Context(), sum, c.size, bytes.NewReader(c.bytes)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if found := walk(t, s); len(found) != 0 {
		t.Errorf("%d contents are there", len(found))
	}
}

func brokenUploadLeavesNothing(t *testing.T, s objects.Store) {
	sum, b := content("broken", 100_000)
	cut := errors.New("the line is cut")
	if err := s.Put(t.Context(), sum, int64(len(b)), io.MultiReader(bytes.NewReader(b[:50_000]), iotest.ErrReader(cut))); !errors.Is(err, cut) {
		t.Error(err)
	}
	// Put also returns the error of a connection that breaks after all bytes have been received.
	if err := s.Put(t.Context(), sum, int64(len(b)), io.MultiReader(bytes.NewReader(b), iotest.ErrReader(cut))); !errors.Is(err, cut) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Put(ctx, sum, int64(len(b)), bytes.NewReader(b)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if found := walk(t, s); len(found) != 0 {
		t.Errorf("%d contents are there", len(found))
	}
}

func badUploadLeavesTheGoodOne(t *testing.T, s objects.Store) {
	sum, b := content("good", 100_000)
	put(t, s, b)
	for _, bad := range [][]byte{nil, b[:10], bytes.Repeat([]byte("x"), len(b)), append(bytes.Clone(b), 'x')} {
		if err := s.Put(t.Context(), sum, int64(len(b)), bytes.NewReader(bad)); err == nil {
			t.Error("an invalid content was accepted")
		}
		if !bytes.Equal(read(t, s, sum), b) {
			t.Fatal("the good one is gone")
		}
	}
}

// Several uploads of equal and different objects, including invalid uploads, run at the same time
// as readers. A reader that can open an object must be able to read the whole object.
func manyAtOnce(t *testing.T, s objects.Store) {
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			sum, b := content(fmt.Sprint("at once ", i%4), 300_000)
			if i%3 == 0 {
				if err := s.Put(t.Context(), sum, int64(len(b)), bytes.NewReader(b[1:])); !errors.Is(err, objects.ErrSize) {
					t.Error(err)
				}
			}
			if err := s.Put(t.Context(), sum, int64(len(b)), bytes.NewReader(b)); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			sum, b := content(fmt.Sprint("at once ", i%4), 300_000)
			for range 20 {
				r, err := s.Open(t.Context(), sum)
				if errors.Is(err, objects.ErrNotFound) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(r)
				if err != nil || !bytes.Equal(got, b) {
					t.Errorf("read %d bytes: %v", len(got), err)
				}
				r.Close()
			}
		})
	}
	wg.Wait()
	if found := walk(t, s); len(found) != 4 {
		t.Errorf("%d contents are there", len(found))
	}
}

// A hub that was paused removes an old copy of an object after another hub has stored the object
// again. The new copy must stay, even if the old copy has an empty Key.Place because an older
// version of the hub stored it.
func lateRemovalLeavesTheNewCopy(t *testing.T, s objects.Store) {
	old, b := content("stored again", 1000)
	old.Place = ""
	put := func(key objects.Key) {
		t.Helper()
		if err := s.Put(t.Context(), key, int64(len(b)), bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
	}
	put(old)
	for range 2 {
		again := objects.Key{Sum: old.Sum, Place: objects.NewPlace()}
		put(again)
		if found := walk(t, s); len(found) != 2 || found[old] != 1000 || found[again] != 1000 {
			t.Errorf("found %v", found)
		}
		for range 2 {
			if err := s.Delete(t.Context(), old); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(read(t, s, again), b) {
			t.Fatal("the new copy is gone")
		}
		old = again
	}
}

// A multipart upload is interrupted in the middle of a part, and then continues. If a part is sent
// twice, the second bytes replace the first. Readers never see an object with wrong bytes.
func uploadInParts(t *testing.T, s objects.Store) {
	part := objects.PartSize(0)
	size := 2*part + 1000
	key, b := content("in parts", int(size))
	other := bytes.Clone(b)
	other[part] ^= 1
	putPart := func(key objects.Key, token string, offset int64, r io.Reader) {
		t.Helper()
		if err := s.PutPart(t.Context(), key, token, size, offset, r); err != nil {
			t.Fatal(err)
		}
	}
	begin := func(key objects.Key) string {
		t.Helper()
		token, err := s.BeginParts(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	token := begin(key)
	cut := errors.New("the line is cut")
	rest := bytes.NewReader(b)
	putPart(key, token, 0, rest)
	if n, _ := rest.Seek(0, io.SeekCurrent); n != part {
		t.Errorf("read %d bytes for a part of %d", n, part)
	}
	if err := s.PutPart(t.Context(), key, token, size, part, io.MultiReader(bytes.NewReader(b[part:2*part-1]), iotest.ErrReader(cut))); !errors.Is(err, cut) {
		t.Fatal(err)
	}
	putPart(key, token, part, bytes.NewReader(other[part:]))
	putPart(key, token, part, bytes.NewReader(b[part:]))
	putPart(key, token, 2*part, bytes.NewReader(b[2*part:]))
	if found := walk(t, s); len(found) != 0 {
		t.Errorf("found %v", found)
	}
	slow, ended := slowPart(t, s, key, token, size, other)
	if _, err := s.Stat(t.Context(), key); !errors.Is(err, objects.ErrNotFound) {
		t.Error(err)
	}
	for range 2 { // the second call is a retry by a hub that did not get the first answer
		if err := s.CompleteParts(t.Context(), key, token, size); err != nil {
			t.Fatal(err)
		}
	}
	close(slow)
	<-ended
	if !bytes.Equal(read(t, s, key), b) {
		t.Error("the object differs")
	}
	for range 2 {
		if err := s.AbortParts(t.Context(), key, token); err != nil {
			t.Error(err)
		}
	}

	bad := objects.Key{Sum: key.Sum, Place: objects.NewPlace()}
	token = begin(bad)
	for offset := int64(0); offset < size; offset += part {
		putPart(bad, token, offset, bytes.NewReader(other[offset:]))
	}
	if err := s.CompleteParts(t.Context(), bad, token, size); !errors.Is(err, objects.ErrSum) {
		t.Error(err)
	}
	short := objects.Key{Sum: key.Sum, Place: objects.NewPlace()}
	shortToken := begin(short)
	putPart(short, shortToken, 0, bytes.NewReader(b))
	if err := s.CompleteParts(t.Context(), short, shortToken, size); !errors.Is(err, objects.ErrSize) {
		t.Error(err)
	}
	gone := objects.Key{Sum: key.Sum, Place: objects.NewPlace()}
	goneToken := begin(gone)
	putPart(gone, goneToken, 0, bytes.NewReader(b))
	for key, token := range map[objects.Key]string{bad: token, short: shortToken, gone: goneToken} {
		if err := s.AbortParts(t.Context(), key, token); err != nil {
			t.Error(err)
		}
	}
	if err := s.CompleteParts(t.Context(), gone, goneToken, size); !errors.Is(err, objects.ErrNotFound) {
		t.Error(err)
	}
	if found := walk(t, s); len(found) != 1 || found[key] != size {
		t.Errorf("found %v", found)
	}
}

// slowPart starts the connection of an attacker who tries to change an object after the hub has
// checked it. The attacker sends a false first part of an object of `size` bytes, but holds the
// second half of this part back until the caller closes `slow`. When the connection has ended,
// `ended` is closed.
func slowPart(t *testing.T, s objects.Store, key objects.Key, token string, size int64, b []byte) (slow chan bool, ended chan bool) {
	t.Helper()
	slow, ended = make(chan bool), make(chan bool)
	begun := make(chan bool)
	first := bytes.Repeat([]byte("attack"), len(b)/6+1)[:objects.PartSize(size)]
	half := len(first) / 2
	go func() {
		defer close(ended)
		r := io.MultiReader(bytes.NewReader(first[:half]), readerFunc(func([]byte) (int, error) {
			close(begun)
			<-slow
			return 0, io.EOF
		}), bytes.NewReader(first[half:]))
		_ = s.PutPart(context.WithoutCancel(t.Context()), key, token, size, 0, r) // too late: the upload has ended
	}()
	<-begun
	return slow, ended
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// The parts of a multipart upload are never too small, too large or too many for S3.
func TestPartsFitIntoS3(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{0, 1, 1 << 30, 1 << 40, 5 << 40} {
		part := objects.PartSize(size)
		if part < 5<<20 || part > 5<<30 || size/part >= 10_000 {
			t.Errorf("%d bytes in parts of %d", size, part)
		}
	}
}

func deletedWhileOpen(t *testing.T, s objects.Store) {
	if _, ok := s.(*objects.Folder); !ok {
		t.Skip("the S3 service decides what happens to a running download")
	}
	_, b := content("open", 300_000)
	sum := put(t, s, b)
	r, err := s.Open(t.Context(), sum)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := s.Delete(t.Context(), sum); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, b) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// Only the user of the hub can read the folders and files of a Folder.
func TestFolderIsTheOwnersAlone(t *testing.T) {
	// With umask 0, files get exactly the requested modes.
	defer syscall.Umask(syscall.Umask(0))
	dir := filepath.Join(t.TempDir(), "objects")
	_, b := content("private", 10)
	put(t, folder(t, dir), b)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %o", path, info.Mode().Perm())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// If an upload was killed, the next OpenFolder removes the file that it left behind.
func TestFolderSweepsWhatAKilledUploadLeft(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "objects")
	f := folder(t, dir)
	_, b := content("kept", 10)
	sum := put(t, f, b)
	f.Close()
	half := filepath.Join(dir, "incoming", "12345")
	if err := os.WriteFile(half, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	f = folder(t, dir)
	if _, err := os.Stat(half); !errors.Is(err, fs.ErrNotExist) {
		t.Error("it is still there")
	}
	if !bytes.Equal(read(t, f, sum), b) {
		t.Error("a whole one is gone")
	}
}

// A second process cannot open a folder that another process has open.
func TestFolderIsOneProcessesAtATime(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "objects")
	folder(t, dir)
	if _, err := objects.OpenFolder(dir); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Error(err)
	}
}

// Walk ignores files that are not named like an object's file.
func TestWalkPassesByWhatIsNoContent(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "objects")
	f := folder(t, dir)
	_, b := content("one", 10)
	put(t, f, b)
	for _, name := range []string{"aa/note.txt", "aa/" + strings.Repeat("A", 62), "readme"} {
		os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700)
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if found := walk(t, f); len(found) != 1 {
		t.Errorf("%d contents", len(found))
	}
	stop := errors.New("enough")
	if err := f.Walk(t.Context(), func(objects.Key, objects.Info) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
}

// OpenS3 refuses a bucket that does not exist and an endpoint that is not valid, and its error
// names the mistake.
func TestS3SaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(gofakes3.New(s3mem.New()).Server())
	defer server.Close()
	for _, c := range []struct{ endpoint, says string }{
		{server.URL, "does not exist"},
		{"ftp://example", "https://host"},
		{"https://user:pass@example", "https://host"},
		{"https://example/bucket", "https://host"},
		{"", "https://host"},
	} {
		if _, err := objects.OpenS3(t.Context(), objects.S3Config{Endpoint: c.endpoint, Region: "us-east-1", Bucket: "fleet", AccessKey: "a", SecretKey: "b"}); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %v", c.endpoint, err)
		}
	}
}

func TestParseSum(t *testing.T) {
	t.Parallel()
	sum, err := objects.ParseSum(strings.Repeat("0a", 32))
	if err != nil || sum[31] != 10 {
		t.Error(sum, err)
	}
	for _, bad := range []string{"", "0a", strings.Repeat("0A", 32), strings.Repeat("0g", 32), strings.Repeat("0a", 33), "../" + strings.Repeat("a", 61), strings.Repeat("é", 32)} {
		if _, err := objects.ParseSum(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
