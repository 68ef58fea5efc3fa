package backup_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gangway/hub/backup"
	"gangway/hub/objects"
	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/hub/store/sqlite"
	"gangway/hub/store/sqlite/sqlitetest"
	"gangway/hub/store/storetest"
	"gangway/hub/store/transfer"

	"filippo.io/age"
)

// hub is a hub with two objects, and a folder for its backups.
type hub struct {
	t        *testing.T
	dir      string
	ca       *pki.Hub
	db       *sqlite.Store
	files    *objects.Folder
	identity *age.X25519Identity
	folder   *backup.Folder
	owner    store.Account
}

func newHub(t *testing.T) *hub {
	t.Helper()
	h := &hub{t: t, dir: t.TempDir(), owner: storetest.Account("anne")}
	var err error
	must := func(failed error) {
		t.Helper()
		if failed != nil {
			t.Fatal(failed)
		}
	}
	h.ca, err = pki.Open(filepath.Join(h.dir, "pki"), pki.Options{})
	must(err)
	path := filepath.Join(h.dir, "gangway.db")
	must(sqlitetest.CopyEmpty(path))
	h.db, err = sqlite.Open(t.Context(), path)
	must(err)
	t.Cleanup(func() { h.db.Close() })
	h.files, err = objects.OpenFolder(filepath.Join(h.dir, "objects"))
	must(err)
	t.Cleanup(func() { h.files.Close() })
	h.identity, err = age.GenerateX25519Identity()
	must(err)
	h.folder, err = backup.OpenFolder(filepath.Join(h.dir, "backups"), h.ca.SealKey(), []string{"r"}, []age.Recipient{h.identity.Recipient()})
	must(err)
	must(h.db.CreateAccount(t.Context(), h.owner))
	token := storetest.JoinToken(h.owner.ID, "fleet", 0)
	must(h.db.CreateJoinToken(t.Context(), token))
	e, err := h.db.BeginEnrolment(t.Context(), storetest.Machine{Name: "one"}.Enrolment(h.owner.ID, token.ID), storetest.Epoch)
	must(err)
	_, err = h.db.Activate(t.Context(), store.Activation{IDevIDHash: e.IDevIDHash, Nick: "one", Now: storetest.Epoch})
	must(err)
	h.keep("first object")
	h.keep("second object")
	return h
}

// keep stores an object.
func (h *hub) keep(text string) objects.Key {
	h.t.Helper()
	ctx, sum, size := h.t.Context(), sha256.Sum256([]byte(text)), int64(len(text))
	u := store.Upload{Owner: h.owner.ID, Sum: sum, Place: objects.NewPlace()}
	_, err := h.db.AnnounceObject(ctx, store.Object{Owner: h.owner.ID, Sum: sum, Size: size, Name: "o", Created: storetest.Epoch, Modified: storetest.Epoch}, 1<<40)
	if err == nil {
		_, err = h.db.BeginUpload(ctx, u, storetest.Epoch)
	}
	key := objects.Key{Sum: sum, Place: u.Place}
	if err == nil {
		err = h.files.Put(ctx, key, size, strings.NewReader(text))
	}
	if err == nil {
		_, err = h.db.FinishUpload(ctx, u, "", size, 1<<40, storetest.Epoch)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return key
}

func (h *hub) source() backup.Source {
	h.t.Helper()
	snapshot, err := transfer.OpenFile(h.t.Context(), filepath.Join(h.dir, "gangway.db"))
	if err != nil {
		h.t.Fatal(err)
	}
	return backup.Source{
		Header: backup.Header{Hub: h.ca.HubName(), Epoch: 7, Begun: storetest.Epoch}, Keys: filepath.Join(h.dir, "pki"), Snapshot: snapshot, Sign: h.ca.SignBackup,
		Objects: func(ctx context.Context, o backup.Object) (string, bool, error) { return h.folder.Put(ctx, o, h.files) },
	}
}

func (h *hub) write(s backup.Source) ([]byte, backup.Summary) {
	h.t.Helper()
	var b bytes.Buffer
	done, err := backup.Write(h.t.Context(), &b, s, h.identity.Recipient())
	if err != nil {
		h.t.Fatal(err)
	}
	return b.Bytes(), done
}

func (h *hub) read(file []byte, v backup.Visitor) (backup.Info, error) {
	return backup.Read(bytes.NewReader(file), h.ca.HubName(), v, h.identity)
}

// code returns the code of a refusal.
func code(err error) string {
	var r *backup.Refusal
	if !errors.As(err, &r) {
		return fmt.Sprint(err)
	}
	if r.Fact == "" || r.Remedy == "" {
		return "no fact or no remedy"
	}
	return r.Code
}

// Read and Get return the rows, keys and objects that Write put into the backup.
func TestBackupComesBack(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	file, done := h.write(h.source())
	if done.Objects != 2 || done.Copied != 2 || done.Rows == 0 {
		t.Errorf("%+v", done)
	}
	path := filepath.Join(t.TempDir(), "new.db")
	target, err := transfer.NewFile(t.Context(), path, transfer.Newest)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]string{}
	var list []backup.Object
	info, err := h.read(file, backup.Visitor{
		Key: func(name string, content []byte) error { keys[name] = string(content); return nil },
		Rows: func(table string, columns []string, rows [][]any, first bool) error {
			return target.Add(t.Context(), table, columns, rows, first)
		},
		Object: func(o backup.Object) error { list = append(list, o); return nil },
	})
	if err == nil {
		err = target.Finish(t.Context(), info.Counters)
	}
	if err = errors.Join(err, target.Close()); err != nil {
		t.Fatal(err)
	}
	seal, err := os.ReadFile(filepath.Join(h.dir, "pki", "seal.key"))
	if err != nil || keys["seal.key"] != string(seal) || len(keys) < 7 {
		t.Errorf("%d keys, %v", len(keys), err)
	}
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for what, ask := range map[string]func(s *sqlite.Store) (any, error){
		"accounts": func(s *sqlite.Store) (any, error) { return s.Accounts(t.Context(), "", 0) },
		"devices":  func(s *sqlite.Store) (any, error) { return s.Devices(t.Context(), h.owner.ID, "", 0) },
		"counts":   func(s *sqlite.Store) (any, error) { return s.FleetCounts(t.Context(), h.owner.ID) },
		"numbers":  func(s *sqlite.Store) (any, error) { return s.HubCounts(t.Context()) },
	} {
		before, err1 := ask(h.db)
		after, err2 := ask(db)
		if err := errors.Join(err1, err2); err != nil || !reflect.DeepEqual(before, after) {
			t.Errorf("%s: %v\nbefore %.300v\nafter  %.300v", what, err, before, after)
		}
	}
	if broken, err := db.Disagreements(t.Context(), 5); err != nil || len(broken) > 0 {
		t.Errorf("%+v, %v", broken, err)
	}
	// The restored database has triggers that keep the counters right.
	if err := db.CreateAccount(t.Context(), storetest.Account("bob")); err != nil {
		t.Fatal(err)
	}
	if n, err := db.HubCounts(t.Context()); err != nil || n.Accounts != 2 {
		t.Errorf("%+v, %v", n, err)
	}
	files, err := objects.OpenFolder(filepath.Join(t.TempDir(), "objects"))
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	for _, o := range list {
		if err := backup.Get(t.Context(), filepath.Join(h.dir, "backups"), o, files, h.identity); err != nil {
			t.Error(err)
		}
	}
}

// A second backup copies only new objects. It also reports an object that the database lists, but
// that the object store does not have.
func TestObjectsAreIncremental(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	h.write(h.source())
	h.keep("third object")
	_, done := h.write(h.source())
	if done.Objects != 3 || done.Copied != 1 {
		t.Errorf("%+v", done)
	}
	gone := h.keep("fourth object")
	if err := h.files.Delete(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	file, done := h.write(h.source())
	if done.Objects != 3 || !slices.Equal(done.Missing, []string{fmt.Sprintf("%x", gone.Sum)}) {
		t.Errorf("%+v", done)
	}
	if info, err := h.read(file, backup.Visitor{}); err != nil || info.Objects != 3 {
		t.Errorf("%+v, %v", info, err)
	}
}

// The end of a backup is missing. Read must refuse the backup, whatever its length.
func TestRejectsTruncatedBackup(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	file, _ := h.write(h.source())
	// The encryption has chunks of 64 KiB. A file that is cut between two chunks, or before the
	// last blocks of the archive, looks like a complete file.
	for n := 0; n < len(file); n += max(1, len(file)/60) {
		if got := code(second(h.read(file[:n], backup.Visitor{}))); got != backup.CodeIncomplete && got != backup.CodeAltered && got != backup.CodeUnreadable {
			t.Errorf("%d of %d bytes: %s", n, len(file), got)
		}
	}
	if got := code(second(h.read(file[:len(file)-1], backup.Visitor{}))); got != backup.CodeAltered && got != backup.CodeIncomplete {
		t.Error("without the last byte:", got)
	}
	if got := code(second(h.read(append(slices.Clone(file), 0), backup.Visitor{}))); got != backup.CodeAltered {
		t.Error("with one more byte:", got)
	}
}

func second(_ backup.Info, err error) error { return err }

// One byte of a backup was changed. Read must refuse the backup, wherever the byte is.
func TestRejectsAlteredBackup(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	file, _ := h.write(h.source())
	for n := 0; n < len(file); n += max(1, len(file)/60) {
		bad := slices.Clone(file)
		bad[n] ^= 1
		if got := code(second(h.read(bad, backup.Visitor{}))); !strings.HasPrefix(got, "backup-") {
			t.Errorf("byte %d of %d: %s", n, len(file), got)
		}
	}
}

// part is an entry of a backup's archive.
type part struct {
	name    string
	content []byte
}

// open decrypts a backup, and seal encrypts one. Anyone with the age recipient (the public key to
// which backups are encrypted) can also encrypt one.
func (h *hub) open(file []byte) (list []part) {
	h.t.Helper()
	plain, err := age.Decrypt(bytes.NewReader(file), h.identity)
	if err != nil {
		h.t.Fatal(err)
	}
	for r := tar.NewReader(plain); ; {
		e, err := r.Next()
		if err == io.EOF {
			return list
		}
		if err != nil {
			h.t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			h.t.Fatal(err)
		}
		list = append(list, part{e.Name, content})
	}
}

func (h *hub) seal(list []part) []byte {
	h.t.Helper()
	var b bytes.Buffer
	w, err := age.Encrypt(&b, h.identity.Recipient())
	if err != nil {
		h.t.Fatal(err)
	}
	archive := tar.NewWriter(w)
	for _, p := range list {
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: p.name, Size: int64(len(p.content)), Mode: 0o600}); err != nil {
			h.t.Fatal(err)
		}
		if _, err := archive.Write(p.content); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), w.Close()); err != nil {
		h.t.Fatal(err)
	}
	return b.Bytes()
}

// An attacker who can write to the folder of the backups has the public key to which backups are
// encrypted, but not the hub's keys. Read must refuse every file that such an attacker makes.
func TestRejectsForgedBackup(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	file, _ := h.write(h.source())
	good := h.open(file)
	if _, err := h.read(h.seal(good), backup.Visitor{}); err != nil {
		t.Fatal("the unchanged entries:", err)
	}
	find := func(name string) int {
		i := slices.IndexFunc(good, func(p part) bool { return strings.HasPrefix(p.name, name) })
		if i < 0 {
			t.Fatal(name)
		}
		return i
	}
	other := newHub(t)
	strange, _ := other.write(other.source())
	theirs := other.open(strange)
	for name, c := range map[string]struct {
		change func(list []part) []part
		code   string
	}{
		"a row is changed": {func(l []part) []part {
			p := &l[find("tables/devices/000000")]
			p.content = bytes.Replace(p.content, []byte("one"), []byte("two"), 1)
			return l
		}, backup.CodeAltered},
		"an entry is removed":    {func(l []part) []part { i := find("tables/devices/000000"); return slices.Delete(l, i, i+1) }, backup.CodeAltered},
		"a key file is removed":  {func(l []part) []part { i := find("pki/seal.key"); return slices.Delete(l, i, i+1) }, backup.CodeAltered},
		"a key file is added":    {func(l []part) []part { return slices.Insert(l, 1, part{"pki/extra.key", []byte("x")}) }, backup.CodeAltered},
		"a key outside the keys": {func(l []part) []part { return slices.Insert(l, 1, part{"pki/../../evil", []byte("x")}) }, backup.CodeAltered},
		"two entries are exchanged": {func(l []part) []part {
			i, j := find("pki/aca.key"), find("pki/root.key")
			l[i], l[j] = l[j], l[i]
			return l
		}, backup.CodeAltered},
		"an object is taken from the list": {func(l []part) []part { i := find("objects/"); return slices.Delete(l, i, i+1) }, backup.CodeAltered},
		"the end is missing":               {func(l []part) []part { return l[:find("end.json")] }, backup.CodeIncomplete},
		"the signature is missing":         {func(l []part) []part { return l[:find("end.sig")] }, backup.CodeIncomplete},
		"the signature is of another":      {func(l []part) []part { l[find("end.sig")].content = theirs[len(theirs)-1].content; return l }, backup.CodeAltered},
		"an entry follows":                 {func(l []part) []part { return append(l, part{"pki/late.key", nil}) }, backup.CodeAltered},
		"another hub":                      {func([]part) []part { return slices.Clone(theirs) }, backup.CodeOtherHub},
		"another hub with this hub's header": {func(l []part) []part {
			return append([]part{l[0]}, theirs[1:]...)
		}, backup.CodeOtherHub},
		"another hub with this hub's certificates": {func(l []part) []part {
			out := append([]part{l[0]}, theirs[1:]...)
			for i := range out {
				if strings.HasSuffix(out[i].name, ".crt") {
					out[i] = l[i]
				}
			}
			return out
		}, backup.CodeAltered},
		"a later format": {func(l []part) []part { l[0].content = []byte(`{"format":2}`); return l }, backup.CodeFormat},
		"an unknown table": {func(l []part) []part {
			return slices.Insert(l, find("tables/"), part{"tables/sqlite_master/columns.json", []byte(`["name"]`)})
		}, backup.CodeFormat},
		"SQL as a column": {func(l []part) []part {
			l[find("tables/accounts/columns")].content = []byte(`["id) VALUES (1); DROP TABLE accounts; --"]`)
			return l
		}, backup.CodeFormat},
	} {
		list := slices.Clone(good)
		if got := code(second(h.read(h.seal(c.change(list)), backup.Visitor{}))); got != c.code {
			t.Errorf("%s: %s", name, got)
		}
	}
	stranger, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Read(bytes.NewReader(file), h.ca.HubName(), backup.Visitor{}, stranger); code(err) != backup.CodeUnreadable {
		t.Error(err)
	}
}

// An attacker removes or changes the file of an object in a backup, or replaces it with the file of
// another object. Get must refuse the file.
func TestRejectsExchangedObject(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	file, _ := h.write(h.source())
	var list []backup.Object
	if _, err := h.read(file, backup.Visitor{Object: func(o backup.Object) error { list = append(list, o); return nil }}); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(h.dir, "backups")
	first, other := filepath.Join(dir, "objects", list[0].File), filepath.Join(dir, "objects", list[1].File)
	whole, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	bad := slices.Clone(whole)
	bad[len(bad)-1] ^= 1
	files, err := objects.OpenFolder(filepath.Join(t.TempDir(), "objects"))
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	for name, content := range map[string][]byte{"removed": nil, "changed": bad, "truncated": whole[:len(whole)-1], "exchanged": stranger, "empty": {}} {
		if err := os.Remove(first); err != nil {
			t.Fatal(err)
		}
		if content != nil {
			if err := os.WriteFile(first, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := backup.Get(t.Context(), dir, list[0], files, h.identity); code(err) != backup.CodeObject {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := files.Stat(t.Context(), list[0].Key); !errors.Is(err, objects.ErrNotFound) {
			t.Errorf("%s: the object is stored: %v", name, err)
		}
		if err := os.WriteFile(first, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Each change that the hub acknowledges during a backup is either completely in the backup or not
// in it at all.
func TestSnapshotIsOneMoment(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	s := h.source()
	late := storetest.Account("late")
	s.Progress = func(done backup.Summary) {
		if err := h.db.CreateAccount(context.WithoutCancel(t.Context()), late); err != nil && !errors.Is(err, store.ErrExists) {
			t.Error(err)
		}
	}
	file, _ := h.write(s)
	var accounts, counted int64
	_, err := h.read(file, backup.Visitor{Rows: func(table string, columns []string, rows [][]any, _ bool) error {
		for _, row := range rows {
			switch {
			case table == "accounts":
				accounts++
			case table == "hub_counts" && row[slices.Index(columns, "field")] == "accounts":
				counted += row[slices.Index(columns, "n")].(int64)
			}
		}
		return nil
	}})
	if err != nil || accounts != 1 || counted != 1 {
		t.Errorf("%d accounts, counted %d, %v", accounts, counted, err)
	}
	if _, err := h.db.Account(t.Context(), late.ID); err != nil {
		t.Error(err)
	}
}
