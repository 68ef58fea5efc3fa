package backup

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"gangway/hub/objects"

	"filippo.io/age"
)

// Folder has the objects of all backups that were made to it: each object is a file, encrypted with
// age. The name of a file does not reveal which object is in it.
type Folder struct {
	dir        string
	key        []byte // key of the hashes that name the files
	recipients []age.Recipient
	made       map[string]bool // folders that exist and are flushed to disk
}

// OpenFolder makes the folder `dir` if it does not exist. `sealKey` is the seal key of the hub. The
// names of the object files depend on the names of the recipients. So if the recipients change, all
// objects are copied again.
func OpenFolder(dir string, sealKey []byte, names []string, recipients []age.Recipient) (*Folder, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	m := hmac.New(sha256.New, sealKey)
	m.Write([]byte("gangway backup objects v1\x00"))
	for _, name := range names {
		m.Write([]byte(name + "\x00"))
	}
	return &Folder{dir: dir, key: m.Sum(nil), recipients: recipients, made: map[string]bool{}}, nil
}

// fileOf returns the name of an object's file.
func (f *Folder) fileOf(sum objects.Sum) string {
	m := hmac.New(sha256.New, f.key)
	m.Write(sum[:])
	name := hex.EncodeToString(m.Sum(nil))
	return name[:2] + "/" + name[2:] + ".age"
}

func pathOf(dir, file string) string {
	return filepath.Join(dir, objectFolder, filepath.FromSlash(file))
}

// objectFolder is the folder of the objects, next to the files of the backups.
const objectFolder = "objects"

// Put copies an object to the folder, unless the folder has it already.
func (f *Folder) Put(ctx context.Context, o Object, from Reader) (file string, copied bool, err error) {
	file = f.fileOf(o.Key.Sum)
	copied, err = f.put(ctx, pathOf(f.dir, file), o, from)
	return file, copied, err
}

// Reader is the part of an object store that a backup needs.
type Reader interface {
	Open(ctx context.Context, key objects.Key) (io.ReadSeekCloser, error)
}

func (f *Folder) put(ctx context.Context, path string, o Object, from Reader) (copied bool, err error) {
	if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() && info.Size() > o.Size {
		return false, nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	content, err := from.Open(ctx, o.Key)
	if err != nil {
		return false, err
	}
	defer content.Close()
	if err := f.make(filepath.Dir(path)); err != nil {
		return false, err
	}
	return true, WriteFile(path, func(w io.Writer) error {
		encrypted, err := age.Encrypt(w, f.recipients...)
		if err != nil {
			return err
		}
		hash := sha256.New()
		n, err := io.Copy(io.MultiWriter(encrypted, hash), content)
		if err != nil {
			return err
		}
		if n != o.Size || objects.Sum(hash.Sum(nil)) != o.Key.Sum {
			return errors.New("the stored object is damaged: its size or its SHA-256 is wrong; run 'gangway fsck --contents', and upload the object again")
		}
		return encrypted.Close()
	})
}

func (f *Folder) make(dir string) error {
	if f.made[dir] {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f.made[dir] = true
	return errors.Join(flush(filepath.Dir(dir)), flush(f.dir))
}

// WriteFile writes a file so that after a crash, either the complete file exists or no file. The
// file has the mode 0600.
func WriteFile(path string, write func(io.Writer) error) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), ".part-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close(), os.Remove(file.Name()))
		}
	}()
	if err := write(file); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return flush(filepath.Dir(path))
}

// flush writes the list of a folder's files to disk.
func flush(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Get copies an object from the folder `dir` of a backup to the object store `to`, which checks the
// object's SHA-256.
func Get(ctx context.Context, dir string, o Object, to objects.Store, identities ...age.Identity) error {
	file, err := os.Open(pathOf(dir, o.File))
	if errors.Is(err, fs.ErrNotExist) {
		return &Refusal{CodeObject, fmt.Sprintf("The backup lacks the object %x.", o.Key.Sum), "Copy the folder 'objects' of the backup completely, next to the backup's file."}
	}
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	defer file.Close()
	plain, err := age.Decrypt(file, identities...)
	if err == nil {
		err = to.Put(ctx, o.Key, o.Size, plain)
	}
	var failed *fs.PathError
	if err != nil && (errors.As(err, &failed) || ctx.Err() != nil) {
		return err
	}
	if err != nil {
		return &Refusal{CodeObject, fmt.Sprintf("The file %s, which should have the object %x, is damaged or was exchanged: %v.", file.Name(), o.Key.Sum, err), "Copy this file again, or use another backup."}
	}
	return nil
}
