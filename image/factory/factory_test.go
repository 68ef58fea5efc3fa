package factory

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const spec = `"#spec":"pantavisor-service-system@1"`

func sumOf(content string) string {
	h := sha256.Sum256([]byte(content))
	return hex.EncodeToString(h[:])
}

// checkoutOf makes a pvr checkout with the given state, and with one object for each of the
// contents.
func checkoutOf(t *testing.T, state string, contents ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, ".pvr", "objects"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, ".pvr", "json"), state)
	for _, c := range contents {
		write(t, filepath.Join(dir, ".pvr", "objects", sumOf(c)), c)
	}
	return dir
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// exportOf makes a file with these members, like one of `pvr export`. A member's data is in its
// field Uname, because tar.Header has no field for the data.
func exportOf(t *testing.T, zip bool, members ...tar.Header) string {
	t.Helper()
	var b bytes.Buffer
	var to io.Writer = &b
	if zip {
		z := gzip.NewWriter(&b)
		defer z.Close()
		to = z
	}
	w := tar.NewWriter(to)
	for _, h := range members {
		content := h.Uname // the member's content, see above
		h.Uname = ""
		if h.Typeflag == 0 || h.Typeflag == tar.TypeReg {
			h.Size = int64(len(content))
		} else {
			content = ""
		}
		h.Mode = 0o644
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if z, ok := to.(*gzip.Writer); ok {
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "export")
	write(t, path, b.String())
	return path
}

func merge(t *testing.T, trails Trails, sources ...string) (*Revision, error) {
	t.Helper()
	return Merge(t.Context(), t.TempDir(), sources, trails, nil)
}

// If two sources have a file with the same name, the merged revision has that of the later source,
// except that JSON objects are merged.
func TestLaterSourcesWin(t *testing.T) {
	t.Parallel()
	a := checkoutOf(t, `{`+spec+`,"bsp/kernel":"`+sumOf("kernel")+`","app/a":"`+sumOf("one")+`","app/b":"`+sumOf("two")+`","app/run.json":{"x":1,"n":12345678901234567890,"z":{"k":"<&>"}},"gone.json":{}}`, "kernel", "one", "two")
	b := exportOf(t, true, tar.Header{Name: "json", Uname: `{` + spec + `,"app/a":"` + sumOf("ONE") + `","app/run.json":{"y":2,"z":{"l":3}},"gone.json":null,"web/c":"` + sumOf("three") + `"}`},
		tar.Header{Name: "objects/" + sumOf("ONE"), Uname: "ONE"}, tar.Header{Name: "objects/" + sumOf("three"), Uname: "three"}, tar.Header{Name: "objects/" + sumOf("more"), Uname: "more"})
	r, err := merge(t, nil, a, b)
	if err != nil {
		t.Fatal(err)
	}
	want := `{` + spec + `,"app/a":"` + sumOf("ONE") + `","app/b":"` + sumOf("two") + `","app/run.json":{"n":12345678901234567890,"x":1,"y":2,"z":{"k":"<&>","l":3}},"bsp/kernel":"` + sumOf("kernel") + `","web/c":"` + sumOf("three") + `"}`
	if string(r.State) != want {
		t.Errorf("state:\n%.600s\nwant:\n%.600s", r.State, want)
	}
	if s := strings.Join(r.Parts, " "); s != "app bsp web" {
		t.Errorf("parts: %s", s)
	}
	files, err := os.ReadDir(r.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var names, objects []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	for _, o := range r.Objects {
		objects = append(objects, o.Sum)
	}
	if !slices.Equal(names, objects) || len(objects) != 4 || r.Size() != int64(len("kernelONEtwothree")) {
		t.Errorf("objects %v, files %v, %d bytes", objects, names, r.Size())
	}

	r, err = merge(t, nil, a+"#app/b,bsp", b+"#web")
	if err != nil || strings.Join(r.Parts, " ") != "app bsp web" || len(r.Objects) != 3 {
		t.Errorf("merging only some parts: %.400v, %v", r, err)
	}
}

// Merge must give the same state and objects as `pvr merge` and `pvr export` do with the same
// sources.
func TestMergesAsPVRDoes(t *testing.T) {
	t.Parallel()
	bin := os.Getenv("GANGWAY_PVR")
	if bin == "" {
		t.Skip("GANGWAY_PVR does not name a pvr program: this test needs the real client")
	}
	home := t.TempDir()
	pvr := func(dir string, args ...string) {
		t.Helper()
		c := exec.CommandContext(t.Context(), bin, append([]string{"--http-proxy=no", "-b", "https://127.0.0.1:1"}, args...)...)
		c.Dir, c.Env = dir, []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "PVR_DISABLE_SELF_UPGRADE=1"}
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("pvr %v: %v %.300s", args, err, out)
		}
	}
	repo := func(files map[string]string) string {
		dir := t.TempDir()
		pvr(dir, "init")
		for name, content := range files {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, name), content)
		}
		pvr(dir, "add", ".")
		pvr(dir, "commit")
		return dir
	}
	a := repo(map[string]string{"bsp/kernel": "kernel", "bsp/run.json": `{"a":1,"c":{"d":[1,2]}}`, "app/one": "one", "app/x&<>": "odd"})
	b := repo(map[string]string{"app/one": "ONE", "bsp/run.json": `{"b":2.50,"c":{"d":[3],"e":null}}`, "web/page": "page"})
	ours, err := merge(t, nil, a, b)
	if err != nil {
		t.Fatal(err)
	}
	pvr(a, "merge", filepath.Join(b, ".pvr"))
	for _, name := range []string{"all.tgz", "all.tar"} {
		all := filepath.Join(t.TempDir(), name)
		pvr(a, "export", all)
		theirs, err := merge(t, nil, all)
		if err != nil {
			t.Fatal(err)
		}
		if string(ours.State) != string(theirs.State) || !slices.Equal(ours.Objects, theirs.Objects) {
			t.Errorf("ours:\n%.600s\npvr's:\n%.600s", ours.State, theirs.State)
		}
	}
}

// fakeTrail is the trail of a dishonest hub, which may return any state and any objects.
type fakeTrail struct {
	text    string
	objects map[string]string
}

func (f fakeTrail) Trail(context.Context, string) (Trail, error) { return f, nil }
func (f fakeTrail) String() string                               { return "a trail" }
func (f fakeTrail) State(context.Context) ([]byte, error)        { return []byte(f.text), nil }
func (f fakeTrail) Object(_ context.Context, sum string) (io.ReadCloser, error) {
	c, ok := f.objects[sum]
	if !ok {
		return nil, errors.New("not found")
	}
	return io.NopCloser(strings.NewReader(c)), nil
}

func TestMergeSourceThatLiesIsRefused(t *testing.T) {
	t.Parallel()
	one := `{` + spec + `,"app/a":"` + sumOf("one") + `"}`
	damaged := checkoutOf(t, one)
	write(t, filepath.Join(damaged, ".pvr", "objects", sumOf("one")), "two")
	elsewhere := checkoutOf(t, one)
	if err := os.Mkdir(filepath.Join(elsewhere, ".pvr", "objects", sumOf("one")), 0o755); err != nil {
		t.Fatal(err)
	}
	object := tar.Header{Name: "objects/" + sumOf("one"), Uname: "one"}
	json := tar.Header{Name: "json", Uname: one}
	for name, c := range map[string]struct {
		source string
		trails Trails
		want   string
	}{
		"a name that leads out":           {checkoutOf(t, `{`+spec+`,"../../etc/x":"`+sumOf("one")+`"}`, "one"), nil, "is not a path inside"},
		"an absolute name":                {checkoutOf(t, `{`+spec+`,"/etc/x":"`+sumOf("one")+`"}`, "one"), nil, "is not a path inside"},
		"a file that is a folder":         {checkoutOf(t, `{`+spec+`,"a":"`+sumOf("one")+`","a/b":"`+sumOf("one")+`"}`, "one"), nil, "a file and a folder"},
		"a name twice":                    {checkoutOf(t, `{`+spec+`,"a":"`+sumOf("one")+`","a":"`+sumOf("two")+`"}`, "one", "two"), nil, "twice"},
		"another format":                  {checkoutOf(t, `{"#spec":"x"}`), nil, "#spec"},
		"no state":                        {t.TempDir(), nil, "not a pvr checkout"},
		"a huge state":                    {checkoutOf(t, `{`+spec+`,"a.json":"`+strings.Repeat("x", 1<<20)+`"}`), nil, "more than"},
		"an object's name that is a path": {checkoutOf(t, `{`+spec+`,"a":"../../../../etc/passwd"}`), nil, "not an object's SHA-256"},
		"an object of another content":    {damaged, nil, "has wrong content"},
		"an object that is a folder":      {elsewhere, nil, "not a regular file"},
		"a missing object":                {checkoutOf(t, one), nil, "lacks the object"},
		"a missing part":                  {checkoutOf(t, one, "one") + "#bsp", nil, "no part"},
		"a device":                        {"/dev/zero", nil, "neither a folder nor a file"},
		"nothing":                         {filepath.Join(t.TempDir(), "x"), nil, "no such file or folder"},
		"an export with a way out":        {exportOf(t, false, json, object, tar.Header{Name: "../x", Uname: "x"}), nil, "pvr never writes"},
		"an export with a way out below":  {exportOf(t, true, json, tar.Header{Name: "objects/../../x", Uname: "one"}), nil, "pvr never writes"},
		"an export with a link":           {exportOf(t, true, json, tar.Header{Name: object.Name, Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}), nil, "pvr never writes"},
		"an export with a hard link":      {exportOf(t, true, json, tar.Header{Name: object.Name, Typeflag: tar.TypeLink, Linkname: "json"}), nil, "pvr never writes"},
		"an export with a device":         {exportOf(t, false, json, tar.Header{Name: "json", Typeflag: tar.TypeChar}), nil, "pvr never writes"},
		"an export with two states":       {exportOf(t, false, json, object, json), nil, "twice"},
		"an export with another content":  {exportOf(t, false, json, tar.Header{Name: object.Name, Uname: "two"}), nil, "has wrong content"},
		"an export without a state":       {exportOf(t, false, object), nil, "no state"},
		"a file that is not an export":    {writeFile(t, strings.Repeat("x", 2000)), nil, "not an export"},
		"a truncated export":              {truncate(t, exportOf(t, true, json, object)), nil, "unexpected EOF"},
		"a trail's name that leads out":   {"ada/gate", fakeTrail{`{` + spec + `,"../x":"` + sumOf("one") + `"}`, nil}, "is not a path inside"},
		"a trail's other content":         {"ada/gate", fakeTrail{one, map[string]string{sumOf("one"): "two"}}, "has wrong content"},
		"a trail without its object":      {"https://hub/trails/1", fakeTrail{one, nil}, "not found"},
		"a trail without a hub":           {"https://hub/trails/1", nil, "no hub is configured"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := Merge(t.Context(), dir, []string{c.source}, c.trails, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v; want %q", err, c.want)
			}
			files, _ := os.ReadDir(dir)
			for _, f := range files {
				if f.Name() != sumOf("one") {
					t.Errorf("Merge left the file %s", f.Name())
				}
			}
		})
	}
	// Both sources are valid, but the merged state is not, because one name would be both a file
	// and a folder.
	file, folder := checkoutOf(t, `{`+spec+`,"a":"`+sumOf("one")+`"}`, "one"), checkoutOf(t, `{`+spec+`,"a/b":"`+sumOf("one")+`"}`, "one")
	if _, err := merge(t, nil, file, folder); err == nil || !strings.Contains(err.Error(), "a file and a folder") {
		t.Errorf("a file and a folder of two sources: %v", err)
	}
	if _, err := merge(t, nil, slices.Repeat([]string{file}, maxSources+1)...); err == nil {
		t.Error("more than maxSources sources are accepted")
	}
}

func writeFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, content)
	return path
}

func truncate(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, string(b[:len(b)/2]))
	return path
}

// zeros is a reader that never ends.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// A source must not be able to fill the disk with an endless object: the method `keep` must stop at
// the size limit and fail.
func TestMergeSourceWithoutEndIsBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := &folder{dir: dir, sizes: map[string]int64{}, total: MaxObjects - (1 << 20)}
	if err := f.keep(sumOf("x"), zeros{}); !errors.Is(err, errTooLarge) {
		t.Errorf("an endless object: got %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 || len(slices.Collect(maps.Keys(f.sizes))) != 0 {
		t.Errorf("the object is still there: %v, %v", left, f.sizes)
	}
}
