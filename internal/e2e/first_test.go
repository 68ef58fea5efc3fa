package e2e_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// brings gives the machine a first revision, as an image does, and returns its
// objects by their hash.
func (m *machine) brings(files map[string]string) map[string]string {
	m.t.Helper()
	dir := m.path("first-revision")
	if err := os.MkdirAll(filepath.Join(dir, "objects"), 0o700); err != nil {
		m.t.Fatal(err)
	}
	state, objects := map[string]any{"#spec": "pantavisor-service-system@1", "bsp/run.json": map[string]int{"n": 1}}, map[string]string{}
	write := func(name string, content []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			m.t.Fatal(err)
		}
	}
	for name, content := range files {
		sum := fmt.Sprintf("%x", sha256.Sum256([]byte(content)))
		state[name], objects[sum] = sum, content
		write("objects/"+sum, []byte(content))
	}
	text, err := json.Marshal(state)
	if err != nil {
		m.t.Fatal(err)
	}
	write("state.json", text)
	m.args = append(m.args, "--first-revision", dir)
	return objects
}

// The first revision that an image brought is step 0 of the trail, and its
// owner can download all of it. Then the machine goes on from there.
func TestFirstRevisionOfTheImageIsTheTrailsFirst(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	objects := m.brings(map[string]string{"app/root": strings.Repeat("root", 1<<20), "bsp/kernel": "kernel", "app/empty": "", "app/x&<>": "odd"})
	// Nothing is lost by kills in its middle.
	for range 6 {
		m.run()
		time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond)
		m.kill()
	}
	m.run()
	m.begun()
	eventually(t, "the folder is removed", func() bool {
		_, err := os.Stat(m.path("first-revision"))
		return os.IsNotExist(err)
	})
	if p := m.becomes(0, "DONE"); p.Status != "DONE" {
		t.Errorf("%+v", p)
	}
	var list []struct {
		Sum string `json:"sha256sum"`
		URL string `json:"signed-geturl"`
	}
	m.ada.call("GET", "/trails/"+m.id+"/steps/0/objects", nil, &list)
	if len(list) != len(objects) {
		t.Errorf("%d objects of %d", len(list), len(objects))
	}
	for _, o := range list {
		status, content, err := m.files.call(t.Context(), "GET", o.URL, nil)
		if err != nil || status != 200 || string(content) != objects[o.Sum] {
			t.Errorf("%s: %d, %d bytes, %v", o.Sum, status, len(content), err)
		}
	}
	eventually(t, "it reports revision 0", func() bool {
		var meta map[string]any
		m.ada.call("GET", "/devices/"+m.id+"/device-meta", nil, &meta)
		return meta["pantavisor.revision"] == "0"
	})
	m.becomes(m.post(map[string]string{"app/root": "next"}), "DONE")
	if got := m.calls(); strings.Join(got, " ") != "install 1 test 1 commit 1" {
		t.Errorf("calls: %v", got)
	}
}

// The real pvr clones a device that has nothing but what its image brought.
func TestPVRClonesTheFirstRevision(t *testing.T) {
	m := newMachine(t)
	tool := needPVR(t, m.hub).with(m.ada.token)
	files := map[string]string{"app/root": "root", "bsp/kernel": strings.Repeat("k", 1<<20)}
	m.brings(files)
	m.args = m.args[2:] // no hook
	m.run()
	m.begun()
	work := t.TempDir()
	tool.run(work, "clone", m.hub.URL+"/trails/"+m.id, "boat")
	for name, want := range files {
		if got, err := os.ReadFile(filepath.Join(work, "boat", name)); err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}
