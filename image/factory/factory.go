package factory

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gangway/wire/trail"
)

// Bounds of a first revision.
const (
	// MaxObjects is the maximum total size of all objects in bytes. The size is bounded because an
	// image is built in memory.
	MaxObjects = 512 << 20
	// maxSources is the maximum number of sources of one revision.
	maxSources = 32
)

// Revision is a device's first revision. Its objects are files in the folder Dir, named by their
// SHA-256.
type Revision struct {
	State   []byte // compact JSON
	Dir     string
	Objects []Object // sorted by SHA-256
	Parts   []string // the state's top-level folders and files, sorted
}

// Object is an object of the revision.
type Object struct {
	Sum  string // SHA-256, 64 lower-case hexadecimal digits
	Size int64  // bytes
}

// Size returns the total size of all objects, in bytes.
func (r *Revision) Size() (n int64) {
	for _, o := range r.Objects {
		n += o.Size
	}
	return n
}

// Merge merges sources in their order, so that each overrides the earlier ones, and writes the
// objects to the folder `dir`. A source is the folder of a pvr checkout, a file made by
// `pvr export`, or the name of a trail, which Merge reads through `trails`. If a source ends with
// "#PART,PART", Merge uses only these parts of it. If `say` is not nil, Merge calls it with a
// sentence about each source.
func Merge(ctx context.Context, dir string, sources []string, trails Trails, say func(string)) (*Revision, error) {
	if len(sources) > maxSources {
		return nil, fmt.Errorf("merge: there are %d sources; at most %d are allowed", len(sources), maxSources)
	}
	if say == nil {
		say = func(string) {}
	}
	store := &folder{dir: dir, sizes: map[string]int64{}}
	var all any
	for _, name := range sources {
		one, err := mergeOne(ctx, store, name, trails, say)
		if err != nil {
			return nil, fmt.Errorf("merge: %s: %w", name, err)
		}
		all = mergePatch(all, one)
	}
	text, err := encode(all)
	if err != nil {
		return nil, fmt.Errorf("merge: %w", err)
	}
	state, sums, err := check(text)
	if err != nil {
		return nil, fmt.Errorf("merge: the merged state: %w", err)
	}
	r := &Revision{State: state, Dir: dir}
	for _, sum := range sums {
		r.Objects = append(r.Objects, Object{sum, store.sizes[sum]})
	}
	for sum := range store.sizes { // drop objects that the merged state does not need
		if !slices.Contains(sums, sum) {
			if err := os.Remove(filepath.Join(dir, sum)); err != nil {
				return nil, fmt.Errorf("merge: %w", err)
			}
		}
	}
	for name := range all.(map[string]any) {
		if top, _, _ := strings.Cut(name, "/"); name != "#spec" && !slices.Contains(r.Parts, top) {
			r.Parts = append(r.Parts, top)
		}
	}
	slices.Sort(r.Parts)
	return r, nil
}

// mergeOne returns a source's state, and writes the objects in that state to the store.
func mergeOne(ctx context.Context, store *folder, name string, trails Trails, say func(string)) (map[string]any, error) {
	path, wanted, chosen := strings.Cut(name, "#")
	src, err := open(ctx, path, trails)
	if err != nil {
		return nil, err
	}
	defer src.close()
	text, err := src.state(ctx)
	if err != nil {
		return nil, err
	}
	text, _, err = check(text)
	if err != nil {
		return nil, err
	}
	state := map[string]any{}
	numbers := json.NewDecoder(bytes.NewReader(text))
	numbers.UseNumber() // so that numbers keep their spelling
	if err := numbers.Decode(&state); err != nil {
		return nil, err
	}
	if chosen {
		if state, err = choose(state, strings.Split(wanted, ",")); err != nil {
			return nil, err
		}
		if text, err = encode(state); err != nil {
			return nil, err
		}
	}
	_, sums, err := check(text)
	if err != nil {
		return nil, err
	}
	if err := src.objects(ctx, store, sums); err != nil {
		return nil, err
	}
	for _, sum := range sums {
		if _, have := store.sizes[sum]; !have {
			return nil, fmt.Errorf("the source lacks the object %s of its state: get the source again with pvr", sum)
		}
	}
	say(fmt.Sprintf("Merging %s: %s, %d object(s)", name, src.kind(), len(sums)))
	return state, nil
}

// The function `check` checks that the hub accepts a state and that a device can write its files.
// It returns the state as compact JSON, and the SHA-256 of each of its objects.
func check(text []byte) (compact []byte, sums []string, err error) {
	s, err := trail.ParseState(text)
	if err != nil {
		return nil, nil, err
	}
	if _, err := s.Files(); err != nil {
		return nil, nil, err
	}
	return s.JSON, s.ObjectSums(), nil
}

// choose returns a state with only the wanted parts: the files with these names, and all files
// below folders with these names.
func choose(state map[string]any, wanted []string) (map[string]any, error) {
	out := map[string]any{"#spec": state["#spec"]}
	for _, part := range wanted {
		found := false
		for name, value := range state {
			if name == part || strings.HasPrefix(name, part+"/") {
				out[name], found = value, true
			}
		}
		if !found || part == "" {
			return nil, fmt.Errorf("the source has no part %q: the text after # must be names of files or folders in the state of the source", part)
		}
	}
	return out, nil
}

// mergePatch applies a JSON Merge Patch (RFC 7396), as pvr does: each member of `patch` replaces
// the member of `target` with the same name, except that two JSON objects are merged in the same
// way, and that null removes the member.
func mergePatch(target, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	t, ok := target.(map[string]any)
	if !ok {
		t = map[string]any{}
	}
	for name, value := range p {
		if value == nil {
			delete(t, name)
			continue
		}
		t[name] = mergePatch(t[name], value)
	}
	return t
}

// The function `encode` encodes a state in JSON as pvr does: with sorted names and without
// unnecessary escapes.
func encode(state any) ([]byte, error) {
	if state == nil {
		return nil, errors.New("no source is given")
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(state); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(b.Bytes()), nil
}
