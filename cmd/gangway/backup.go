package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gangway/hub/backup"
	"gangway/hub/objects"
	"gangway/hub/store/transfer"
	"gangway/internal/version"

	"filippo.io/age"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

// backupFlags are the flags of 'gangway backup'.
type backupFlags struct {
	data, to       string
	recipients     []string
	withoutObjects bool
	s3             objects.S3Config
}

func (a *app) backupCommand() *cobra.Command {
	var o backupFlags
	c := &cobra.Command{
		Use: "backup --data DIR --to FOLDER --recipient AGE1...", Short: "Make an encrypted backup of the hub", Args: args(),
		Long: `Backup writes the hub's keys and all rows of its database to a new file in FOLDER,
encrypted with age and signed with a key of the hub. The hub may be running: the backup
has everything that the hub acknowledged before the command began. It works in the same
way with a database file and with PostgreSQL.

Each object is a file in FOLDER/objects. Backups in the same FOLDER share these files,
so a backup copies only new objects. With --without-objects, a backup has no objects; use
this option if the objects are in a bucket that has its own backup.

FOLDER should be on another machine. Nobody can read the backup without the age identity
of a recipient, not even the hub: store the identity elsewhere. 'gangway backup key'
makes an identity. 'gangway restore' reads the backup.

The exit code is 1 if the database lists objects that are not stored. Apart from these
objects, the backup is complete.`,
		Example: `  gangway backup key backup.key
  gangway backup --data /var/lib/gangway --to /backup --recipient age1...
  gangway backup --data /var/lib/gangway --to /backup --recipient age1... --output json`,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.to == "" || len(o.recipients) == 0 {
				return usagef("--to and --recipient are needed: the folder of the backups, and the age recipient that can read them")
			}
			return a.backUp(c.Context(), o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.data, "data", "", "folder of the hub's keys and database (required)")
	f.StringVar(&o.to, "to", "", "folder for the backup (required)")
	f.StringArrayVar(&o.recipients, "recipient", nil, "age recipient (age1...) that can read the backup (required; repeatable)")
	f.BoolVar(&o.withoutObjects, "without-objects", false, "leave out the objects")
	addS3Flags(f, &o.s3)
	c.AddCommand(a.backupKeyCommand(), a.backupVerifyCommand(), a.backupCheckCommand(), a.backupRecordCommand())
	return c
}

func (a *app) backUp(ctx context.Context, o backupFlags) error {
	var recipients []age.Recipient
	for _, text := range o.recipients {
		r, err := age.ParseX25519Recipient(text)
		if err != nil {
			return usagef("--recipient %.80q is not an age recipient (age1...): %w", text, err)
		}
		recipients = append(recipients, r)
	}
	i, err := existing(ctx, o.data)
	if err != nil {
		return err
	}
	defer i.close()
	folder, err := backup.OpenFolder(o.to, i.ca.SealKey(), o.recipients, recipients)
	if err != nil {
		return err
	}
	source, describer, err := i.backupSource(ctx, folder, o)
	if err != nil {
		return err
	}
	source.Progress = a.backupProgress()
	path := describer.Path()
	var done backup.Summary
	err = backup.WriteFile(path, func(w io.Writer) (err error) {
		done, err = backup.Write(ctx, io.MultiWriter(w, describer), source, recipients...)
		return err
	})
	if err != nil {
		return fmt.Errorf("no backup was made: %w", err)
	}
	if err := describer.Finish(i.ca, done.Header, o.recipients); err != nil {
		return fmt.Errorf("the backup %s is complete, but its description could not be written, so 'gangway backup check' cannot check it: %w", path, err)
	}
	// The backup is complete even if its time cannot be recorded.
	if err := i.engine.SetLastBackup(ctx, source.Header.Begun); err != nil {
		a.note("Warning: the hub does not know of this backup, and may report that its newest backup is old: %v", err)
	}
	return a.reportBackup(path, done)
}

// backupSource gives the backup a number, which is called its epoch, and stores the epoch in the
// database. Then it makes the snapshot, so that the snapshot contains the epoch.
func (i *instance) backupSource(ctx context.Context, folder *backup.Folder, o backupFlags) (s backup.Source, describer *backup.Describer, err error) {
	begun := time.Now()
	epoch, err := i.engine.NextEpoch(ctx)
	if err != nil {
		return s, nil, err
	}
	name := fmt.Sprintf("%09d-%s%s", epoch, begun.UTC().Format("20060102T150405Z"), backup.FileEnding)
	describer = backup.NewDescriber(filepath.Join(o.to, name))
	s = backup.Source{
		Header: backup.Header{Hub: i.ca.HubName(), Epoch: epoch, Begun: begun.UTC().Truncate(time.Second), Version: version.Current.Version},
		Keys:   keysFolder(ctx, i.dir),
		Sign:   i.ca.SignBackup,
	}
	if !o.withoutObjects {
		from, err := i.objectReader(ctx, o.s3)
		if err != nil {
			return s, nil, err
		}
		s.Objects = func(ctx context.Context, o backup.Object) (file string, copied bool, err error) {
			if file, copied, err = folder.Put(ctx, o, from); err == nil {
				err = describer.Object(file)
			}
			return file, copied, err
		}
	}
	s.Snapshot, err = i.snapshot(ctx)
	return s, describer, err
}

// snapshot begins a snapshot of the hub's database.
func (i *instance) snapshot(ctx context.Context) (*transfer.Snapshot, error) {
	config, shared, err := databaseOf(ctx, i.dir)
	if err != nil {
		return nil, err
	}
	if shared {
		return transfer.OpenPostgres(ctx, config)
	}
	return transfer.OpenFile(ctx, filepath.Join(i.dir, databaseFile))
}

// objectReader returns the object store for reading. Unlike openObjects, it also works while a
// running hub has the folder of the objects open.
func (i *instance) objectReader(ctx context.Context, s3 objects.S3Config) (objects.Store, error) {
	if s3.Endpoint == "" && s3.Bucket == "" {
		return objects.ReadFolder(filepath.Join(i.dir, objectFolder))
	}
	if err := i.openObjects(ctx, s3); err != nil {
		return nil, err
	}
	return i.objects, nil
}

// progressEvery is how often a backup or a restore prints its progress.
const progressEvery = 5 * time.Second

func (a *app) backupProgress() func(backup.Summary) {
	next := time.Now().Add(progressEvery)
	return func(s backup.Summary) {
		if now := time.Now(); now.After(next) {
			next = now.Add(progressEvery)
			a.note("So far: %d rows, %d objects (%s).", s.Rows, s.Objects, humanize.IBytes(uint64(s.Bytes)))
		}
	}
}

// backupView is a backup in JSON.
type backupView struct {
	File    string    `json:"file"`
	Hub     string    `json:"hub"` // the hub name
	Epoch   int64     `json:"epoch"`
	Begun   time.Time `json:"begun"`
	Rows    int64     `json:"rows"`
	Objects int       `json:"objects"`
	Copied  int       `json:"copied"` // objects that the folder did not have
	Bytes   int64     `json:"bytes"`  // size of all objects
	Missing []string  `json:"missing"`
}

func (a *app) reportBackup(path string, s backup.Summary) error {
	done, err := a.json(backupView{path, s.Header.Hub, s.Header.Epoch, s.Header.Begun, s.Rows, s.Objects, s.Copied, s.Bytes, append([]string{}, s.Missing...)})
	if !done {
		a.printf("%s\n", path)
		a.note("Backup number %d of the hub %s: %d rows, %d objects (%s), of which %d are new.", s.Header.Epoch, s.Header.Hub, s.Rows, s.Objects, humanize.IBytes(uint64(s.Bytes)), s.Copied)
		a.note("To restore, you need the file, the folder 'objects' next to it, the age identity, and the hub name.")
	}
	if err == nil && len(s.Missing) > 0 {
		list := s.Missing[:min(len(s.Missing), 5)]
		return fmt.Errorf("the backup lacks %d objects that the database lists, because the hub has lost their content: %s; let their owners upload the objects again, or restore the objects from an earlier backup", len(s.Missing), strings.Join(list, ", "))
	}
	return err
}

func (a *app) backupKeyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "key FILE", Short: "Create the age identity that reads backups", Args: args("FILE"),
		Long: `Key creates an age identity in a new file, as age-keygen does, and prints its
recipient for 'gangway backup --recipient'.

Anyone with the file and a backup has the keys of the hub. Without the file, no backup
can be read. Keep two copies of the file offline, not on the hub's machine.`,
		Example: "  gangway backup key backup.key",
		RunE: func(_ *cobra.Command, arg []string) error {
			return a.createAgeIdentity(arg[0])
		},
	}
}

// backupRecordCommand returns the command that an operator calls after another program has made a
// backup. Otherwise the hub does not know of the backup, and reports that its newest backup is old.
func (a *app) backupRecordCommand() *cobra.Command {
	var data string
	c := &cobra.Command{
		Use: "record --data DIR", Short: "Record that another program has just made a backup", Args: args(),
		Long: `Record tells the hub that a backup was made now by another program, such as
pg_basebackup. If no backup was recorded for a week, the hub reports the alarm backup-old.
'gangway backup' records its backups by itself.`,
		Example: "  gangway backup record --data /var/lib/gangway",
		RunE: func(c *cobra.Command, _ []string) error {
			i, err := existing(c.Context(), data)
			if err != nil {
				return err
			}
			defer i.close()
			now := time.Now()
			if err := i.engine.SetLastBackup(c.Context(), now); err != nil {
				return err
			}
			a.note("Recorded a backup at %s.", now.Format(time.DateTime))
			return nil
		},
	}
	c.Flags().StringVar(&data, "data", "", "folder of the hub's keys and database (required)")
	return c
}

func (a *app) backupVerifyCommand() *cobra.Command {
	var o restoreFlags
	c := &cobra.Command{
		Use: "verify FILE --identity KEY --hub-name NAME", Short: "Check that a backup is complete and unchanged", Args: args("FILE"),
		Long: `Verify reads a backup and its objects completely, and checks all hashes and the hub's
signature. It writes nothing. The exit code is 1 if the backup cannot be restored.`,
		Example: "  gangway backup verify /backup/000000007-20261129T031500Z.gangway-backup --identity backup.key --hub-name 3f2a...",
		RunE: func(c *cobra.Command, arg []string) error {
			info, err := o.verify(c.Context(), arg[0])
			if err != nil {
				return err
			}
			// The list is read only after the backup is verified, so that a forged list cannot fill
			// the memory.
			var list []backup.Object
			if _, err := o.pass(c.Context(), arg[0], backup.Visitor{Object: func(object backup.Object) error {
				list = append(list, object)
				return nil
			}}); err != nil {
				return err
			}
			for _, object := range list {
				if err := backup.Get(c.Context(), filepath.Dir(arg[0]), object, checking{}, o.identities...); err != nil {
					return err
				}
			}
			h := info.Header
			if done, err := a.json(backupView{File: arg[0], Hub: h.Hub, Epoch: h.Epoch, Begun: h.Begun, Objects: info.Objects, Bytes: info.Bytes, Missing: []string{}}); done {
				return err
			}
			a.printf("Backup number %d, begun at %s, is complete: %d objects (%s).\n", h.Epoch, h.Begun.Format(time.RFC3339), info.Objects, humanize.IBytes(uint64(info.Bytes)))
			return nil
		},
	}
	o.add(c.Flags())
	return c
}

func (a *app) backupCheckCommand() *cobra.Command {
	var data, to string
	c := &cobra.Command{
		Use: "check --data DIR --to FOLDER", Short: "Check the newest backup without its age identity", Args: args(),
		Long: `Check compares the newest backup in FOLDER with the hub's description of it: the file's
SHA-256, and the sizes of the objects' files. The description is a file next to the
backup, signed by the hub. So check finds a backup that is incomplete, damaged or
exchanged, and it needs no secret. Only 'gangway backup verify' decrypts a backup.

The hub records the result. While the newest check has found a fault, the hub reports
the alarm backup-damaged. The exit code is 1 if the backup cannot be restored.`,
		Example: "  gangway backup check --data /var/lib/gangway --to /backup",
		RunE: func(c *cobra.Command, _ []string) error {
			if to == "" {
				return usagef("--to is needed: the folder of the backups")
			}
			i, err := existing(c.Context(), data)
			if err != nil {
				return err
			}
			defer i.close()
			done, err := backup.CheckNewest(c.Context(), to, i.ca.HubName())
			if c.Context().Err() != nil {
				return errors.New("interrupted")
			}
			var refusal *backup.Refusal
			if err != nil && !errors.As(err, &refusal) {
				return err
			}
			fault := ""
			if refusal != nil {
				fault = refusal.Fact
			}
			if failed := i.engine.SetBackupFault(c.Context(), fault); failed != nil {
				return errors.Join(err, failed)
			}
			if err != nil {
				return err
			}
			if done.Description == nil {
				return fmt.Errorf("an earlier version of Gangway made the backup %s, and wrote no description of it: make a new backup, or use 'gangway backup verify'", done.File)
			}
			d := done.Description
			if done, err := a.json(d); done {
				return err
			}
			a.printf("%s\n", done.File)
			a.note("Backup number %d, begun at %s, is unchanged, with %d objects. To restore the backup, you need an age identity of %s.", d.Epoch, d.Begun.Format(time.RFC3339), d.Count, strings.Join(d.Recipients, " or "))
			return nil
		},
	}
	c.Flags().StringVar(&data, "data", "", "folder of the hub's keys and database (required)")
	c.Flags().StringVar(&to, "to", "", "folder of the backups (required)")
	return c
}

// checking is an object store that checks objects and stores nothing.
type checking struct{ objects.Store }

func (checking) Put(ctx context.Context, key objects.Key, size int64, r io.Reader) error {
	return objects.Check(ctx, key, size, r)
}

// readIdentities reads a file of age identities.
func readIdentities(path string) ([]age.Identity, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := age.ParseIdentities(io.LimitReader(f, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("%s contains no age identity; give the file that 'gangway backup key' made: %w", path, err)
	}
	if len(list) == 0 {
		return nil, errors.New("the file in --identity contains no age identity; give the file that 'gangway backup key' made")
	}
	return list, nil
}
