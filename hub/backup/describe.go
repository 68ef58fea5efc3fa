package backup

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"gangway/hub/pki"
	"gangway/internal/strictjson"
)

// FileEnding is the end of the name of each backup's file. descriptionEnding is the end of the name
// of each description's file.
const (
	FileEnding        = ".gangway-backup"
	descriptionEnding = ".info"
)

// Description says what a backup's file and its objects must be, so that a program without the age
// identity can check them. The hub signs the description, and writes it to a file next to the
// backup's file. The description is the last line of that file. Each line before it has the size
// and the name of an object's file.
type Description struct {
	Hub        string    `json:"hub"`
	Epoch      int64     `json:"epoch"`
	Begun      time.Time `json:"begun"`
	Engine     string    `json:"engine"`
	Version    string    `json:"version"`
	File       string    `json:"file"` // name of the backup's file
	Size       int64     `json:"size"`
	SHA256     string    `json:"sha256"`     // of the backup's file
	Recipients []string  `json:"recipients"` // age recipients: the public keys to which the backup is encrypted
	Objects    bool      `json:"objects"`    // false: the backup does not have the objects
	Count      int       `json:"count"`      // of the objects
	List       string    `json:"list"`       // SHA-256 of the lines before this one, with their line ends
	Root       string    `json:"root"`       // certificate in PEM
	ACA        string    `json:"aca"`        // certificate in PEM; its key has made the signature
}

type signedDescription struct {
	Description json.RawMessage `json:"gangway-backup"`
	Signature   []byte          `json:"signature"`
}

// descriptionPrefix begins the text whose hash the hub signs.
const descriptionPrefix = "gangway backup description v1\x00"

func descriptionSum(text []byte) [sha256.Size]byte {
	return sha256.Sum256(append([]byte(descriptionPrefix), text...))
}

// Describer makes the description of a backup while the backup is written.
type Describer struct {
	dir, path string
	hash      hash.Hash
	size      int64
	list      bytes.Buffer
	count     int
}

// NewDescriber returns a Describer for a backup that is written to the file `path`.
func NewDescriber(path string) *Describer {
	return &Describer{dir: filepath.Dir(path), path: path, hash: sha256.New()}
}

// Path returns the path of the backup's file.
func (d *Describer) Path() string { return d.path }

// Write adds bytes of the backup's file to the hash in the description.
func (d *Describer) Write(b []byte) (int, error) {
	d.size += int64(len(b))
	return d.hash.Write(b)
}

// Object adds the file of an object to the description. `file` is the name of this file in the
// folder of the objects.
func (d *Describer) Object(file string) error {
	info, err := os.Stat(pathOf(d.dir, file))
	if err == nil {
		d.count++
		fmt.Fprintf(&d.list, "%d %s\n", info.Size(), file)
	}
	return err
}

// Finish writes the description next to the backup's file.
func (d *Describer) Finish(ca *pki.Hub, h Header, recipients []string) error {
	sum := sha256.Sum256(d.list.Bytes())
	text, err := json.Marshal(Description{
		Hub: h.Hub, Epoch: h.Epoch, Begun: h.Begun, Engine: h.Engine, Version: h.Version, File: filepath.Base(d.path), Size: d.size,
		SHA256: hex.EncodeToString(d.hash.Sum(nil)), Recipients: recipients, Objects: h.Objects, Count: d.count, List: hex.EncodeToString(sum[:]),
		Root: string(ca.RootPEM()), ACA: string(ca.ACAPEM()),
	})
	if err != nil {
		return err
	}
	signature, err := ca.SignBackup(descriptionSum(text))
	if err != nil {
		return err
	}
	line, err := json.Marshal(signedDescription{text, signature})
	if err != nil {
		return err
	}
	return WriteFile(d.path+descriptionEnding, func(w io.Writer) error {
		if _, err := d.list.WriteTo(w); err != nil {
			return err
		}
		_, err := w.Write(append(line, '\n'))
		return err
	})
}

// Checked is what CheckNewest found about the newest backup in a folder.
type Checked struct {
	File string // path of the backup's file
	// Begun is the time at which the backup began. Until the description is verified, Begun is the
	// time in the file's name.
	Begun time.Time
	// Description is nil if the backup has no description. CheckNewest then checked only that the
	// backup's file exists.
	Description *Description
	// Unfinished is true if the context ended before everything was read.
	Unfinished bool
}

// CodeNone is the code of the refusal if a folder has no backup.
const CodeNone = "backup-none"

// Newest returns the path of the newest backup in a folder, or "" if there is none.
func Newest(dir string) (string, error) {
	files, err := os.ReadDir(dir) // sorted by name, and the names begin with the epoch
	for _, f := range slices.Backward(files) {
		if strings.HasSuffix(f.Name(), FileEnding) {
			return filepath.Join(dir, f.Name()), nil
		}
	}
	return "", err
}

// CheckNewest compares the newest backup in a folder with the description that the hub has signed.
// It needs no age identity, so it cannot decrypt the backup. An error of the type *Refusal says why
// the backup cannot be restored. If the context ends, CheckNewest returns what it has checked until
// then.
func CheckNewest(ctx context.Context, dir, hubName string) (c Checked, err error) {
	if c.File, err = Newest(dir); err != nil {
		return c, err
	}
	if c.File == "" {
		return c, &Refusal{CodeNone, fmt.Sprintf("There is no backup in %s.", dir), "Make a backup: see 'Backup' in docs/operations.md."}
	}
	if _, stamp, ok := strings.Cut(strings.TrimSuffix(filepath.Base(c.File), FileEnding), "-"); ok {
		c.Begun, _ = time.Parse("20060102T150405Z", stamp)
	}
	info, err := os.Stat(c.File)
	if err != nil {
		return c, err
	}
	list, d, err := readDescription(c.File+descriptionEnding, hubName)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	if d.File != filepath.Base(c.File) {
		return c, fileAltered(c.File, "the description belongs to the backup "+d.File)
	}
	c.Description, c.Begun = d, d.Begun
	if info.Size() != d.Size {
		return c, fileAltered(c.File, fmt.Sprintf("the file has %d bytes, but the hub wrote %d", info.Size(), d.Size))
	}
	if err := checkObjectFiles(ctx, dir, list); err != nil {
		return c, unlessEnded(ctx, &c, err)
	}
	sum, err := sumOf(ctx, c.File)
	if err != nil {
		return c, unlessEnded(ctx, &c, err)
	}
	if sum != d.SHA256 {
		return c, fileAltered(c.File, "its SHA-256 is wrong")
	}
	return c, nil
}

// unlessEnded returns `err`. If the context has ended, it sets c.Unfinished and returns nil
// instead.
func unlessEnded(ctx context.Context, c *Checked, err error) error {
	if ctx.Err() != nil {
		c.Unfinished = true
		return nil
	}
	return err
}

func fileAltered(path, how string) error {
	return &Refusal{CodeAltered, fmt.Sprintf("The backup %s has changed since the hub wrote it: %s.", path, how), "Make a new backup, keep this file, and examine the disk of the backups."}
}

// readDescription reads and verifies a description. `list` has the sizes and names of objects'
// files.
func readDescription(path, hubName string) (list []byte, d *Description, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	wrong := func(how string) error {
		return &Refusal{CodeAltered, fmt.Sprintf("The backup's description %s cannot be used: %s.", path, how), "Make a new backup, and keep these files: find out what changed them."}
	}
	at := bytes.LastIndexByte(bytes.TrimSuffix(text, []byte("\n")), '\n') + 1
	list, last := text[:at], text[at:]
	var s signedDescription
	if err := strictjson.DecodeKnown(last, &s); err != nil {
		return nil, nil, wrong("the last line is not a signature")
	}
	d = &Description{}
	if err := strictjson.Decode(s.Description, d); err != nil {
		return nil, nil, wrong("the last line is not a description")
	}
	switch err := pki.VerifyBackup(hubName, []byte(d.Root), []byte(d.ACA), descriptionSum(s.Description), s.Signature); {
	case errors.Is(err, pki.ErrOtherHub) || err == nil && d.Hub != hubName:
		return nil, nil, &Refusal{CodeOtherHub, fmt.Sprintf("The backup %s is of another hub, with the hub name %.64q.", strings.TrimSuffix(path, descriptionEnding), d.Hub), "Name the folder of this hub's backups."}
	case err != nil:
		return nil, nil, wrong("the hub did not sign it")
	}
	if sum := sha256.Sum256(list); hex.EncodeToString(sum[:]) != d.List || bytes.Count(list, []byte("\n")) != d.Count {
		return nil, nil, wrong("the list of objects was changed")
	}
	return list, d, nil
}

// checkObjectFiles checks that each object's file exists and has the listed size.
func checkObjectFiles(ctx context.Context, dir string, list []byte) error {
	missing, first := 0, ""
	for lines := bufio.NewScanner(bytes.NewReader(list)); lines.Scan(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		size, file, _ := strings.Cut(lines.Text(), " ")
		want, err := strconv.ParseInt(size, 10, 64)
		if err != nil || !objectFile().MatchString(file) {
			return errors.New("backup: the list of objects cannot be read")
		}
		if info, err := os.Stat(pathOf(dir, file)); err != nil || info.Size() != want {
			if missing++; first == "" {
				first = file
			}
		}
	}
	if missing > 0 {
		return &Refusal{CodeObject, fmt.Sprintf("Files of the backup's objects are missing, or have another size: %d files, of which the first is %s.", missing, first),
			"Remove files with another size from the folder 'objects' of the backup, and make a new backup: it copies these objects again."}
	}
	return nil
}

// sumOf returns the SHA-256 of a file in hexadecimal.
func sumOf(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if _, err := io.CopyN(sum, f, 16<<20); errors.Is(err, io.EOF) {
			return hex.EncodeToString(sum.Sum(nil)), nil
		} else if err != nil {
			return "", err
		}
	}
}
