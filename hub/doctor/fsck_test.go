package doctor_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gangway/hub/doctor"
	"gangway/hub/objects"
	"gangway/hub/store"
	"gangway/hub/store/sqlite"
	"gangway/hub/store/sqlite/sqlitetest"
	"gangway/hub/store/storetest"
	"gangway/internal/finding"
)

// Each rule that the store checks has a fact and a remedy.
func TestEachRuleHasARemedy(t *testing.T) {
	t.Parallel()
	for _, rule := range storetest.Rules {
		f := doctor.RuleOf(rule)
		if !strings.Contains(f.Fact, "%s") || f.Remedy == "" {
			t.Errorf("%s: %+v", rule, f)
		}
	}
	if n := doctor.CountRules(); n != len(storetest.Rules) {
		t.Errorf("%d rules have a remedy, and there are %d", n, len(storetest.Rules))
	}
}

// Fsck finds a recorded object that the object store does not have, or has with another size.
func TestMissingObjectIsFound(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "gangway.db")
	if err := sqlitetest.CopyEmpty(path); err != nil {
		t.Fatal(err)
	}
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	files, err := objects.OpenFolder(filepath.Join(dir, "objects"))
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	owner := storetest.Account("anne")
	if err := db.CreateAccount(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	read := false
	codes := func() string {
		t.Helper()
		list, err := doctor.Fsck(t.Context(), db, files, read)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, f := range list {
			if f.Severity != finding.OK && f.Remedy == "" {
				t.Errorf("no remedy: %+v", f)
			}
			all = append(all, fmt.Sprintf("%s %s", f.Severity, f.Code))
		}
		return strings.Join(all, ", ")
	}
	keep := func(text string, stored bool) {
		t.Helper()
		sum, size := sha256.Sum256([]byte(text)), int64(len(text))
		_, err := db.AnnounceObject(t.Context(), store.Object{Owner: owner.ID, Sum: sum, Size: size, Name: "o", Created: storetest.Epoch, Modified: storetest.Epoch}, 1<<40)
		u := store.Upload{Owner: owner.ID, Sum: sum, Place: objects.NewPlace()}
		if err == nil {
			_, err = db.BeginUpload(t.Context(), u, storetest.Epoch)
		}
		if err == nil && stored {
			err = files.Put(t.Context(), objects.Key{Sum: sum, Place: u.Place}, size, bytes.NewReader([]byte(text)))
		}
		if err == nil {
			_, err = db.FinishUpload(t.Context(), u, "", size, 1<<40, storetest.Epoch)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	keep("here", true)
	if got := codes(); got != "ok agreement, ok objects" {
		t.Error(got)
	}
	// If the object is replaced by other bytes of the same size, Fsck notices this only by reading
	// the object.
	files.Close()
	sum := sha256.Sum256([]byte("here"))
	stored, err := db.StoredObjects(t.Context(), store.Hash{}, 1)
	if err != nil || len(stored) != 1 || stored[0].Sum != sum {
		t.Fatal(stored, err)
	}
	overwrite(t, filepath.Join(dir, "objects"), "here", "HERE")
	if files, err = objects.OpenFolder(filepath.Join(dir, "objects")); err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	if got := codes(); got != "ok agreement, ok objects" {
		t.Error(got)
	}
	read = true
	if got := codes(); got != "ok agreement, problem object-missing" {
		t.Error(got)
	}
	read = false
	keep("gone", false)
	if got := codes(); got != "ok agreement, problem object-missing" {
		t.Error(got)
	}
	list, err := doctor.Fsck(t.Context(), db, nil, false)
	if err != nil || list[1].Code != "objects-unchecked" || finding.Worst(list) != finding.Note {
		t.Errorf("%+v, %v", list, err)
	}
}

// overwrite finds the files in the folder `dir` whose content is `from`, and replaces their content
// by `to`.
func overwrite(t *testing.T, dir, from, to string) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if text, err := os.ReadFile(path); err != nil || string(text) != from {
			return err
		}
		n++
		return errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, []byte(to), 0o600))
	})
	if err != nil || n != 1 {
		t.Fatalf("%d files were overwritten: %v", n, err)
	}
}
