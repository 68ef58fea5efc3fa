package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gangway/hub/backup"
	"gangway/hub/doctor"
	"gangway/hub/objects"
	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/hub/store/postgres"
	"gangway/hub/store/sqlite"
	"gangway/hub/store/transfer"
	"gangway/internal/finding"

	"filippo.io/age"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// restoreFlags are the flags of 'gangway restore' and of 'gangway backup verify'.
type restoreFlags struct {
	identity, hubName string
	identities        []age.Identity

	data           string
	skipDamaged    bool
	events         []string // files with the events after the backup
	unsignedEvents bool
	withoutEvents  bool
	s3             objects.S3Config
}

func (o *restoreFlags) add(f *pflag.FlagSet) {
	f.StringVar(&o.identity, "identity", "", "file with the age identity that can read the backup (required)")
	f.StringVar(&o.hubName, "hub-name", "", "hub name of the backup's hub, from a token file or from 'gangway backup'; the name proves that this hub made the backup (required)")
}

// verify reads a whole backup, and verifies that the hub made each part of it.
func (o *restoreFlags) verify(ctx context.Context, path string) (info backup.Info, err error) {
	if o.identity == "" || o.hubName == "" {
		return info, usagef("--identity and --hub-name are needed: the file of the age identity, and the name of the hub that made the backup")
	}
	if o.identities, err = readIdentities(o.identity); err != nil {
		return info, err
	}
	return o.pass(ctx, path, backup.Visitor{})
}

// pass reads the backup's file once.
func (o *restoreFlags) pass(ctx context.Context, path string, v backup.Visitor) (backup.Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return backup.Info{}, err
	}
	defer f.Close()
	return backup.Read(interruptible{ctx, f}, strings.ToLower(o.hubName), v, o.identities...)
}

// interruptible is a file whose reads fail after the context has ended.
type interruptible struct {
	ctx context.Context
	f   *os.File
}

func (r interruptible) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.f.Read(p)
}

func (a *app) restoreCommand() *cobra.Command {
	var o restoreFlags
	c := &cobra.Command{
		Use: "restore FILE --data DIR --identity KEY --hub-name NAME (--events FILE | --without-events)", Short: "Restore a hub from a backup", Args: args("FILE"),
		Long: `Restore makes the data folder of a hub from a backup of 'gangway backup'. DIR must be
empty or not exist. With --database, the rows go to an empty PostgreSQL database, and
otherwise to a database file. The hub of the backup may have had either kind of database.

Restore first reads the whole backup, and checks all hashes and the hub's signature. It
refuses a backup that is incomplete or changed, and then changes nothing. If restore is
interrupted, no hub can start with DIR; run restore again. At the end it checks the
database as 'gangway fsck' does.

The restored hub does not know the changes after the backup. So a device that its owner
deleted after the backup would work again, and so would a disabled join token or account
and a revoked API token. If you have the audit trail since the backup ('gangway events
--output jsonl --sign'), name it with --events: restore then repeats these deletions, and
counts the other lost changes. If no single file covers the whole time, name several
files. If the audit trail is lost too, say so with --without-events. In both cases, all
sessions end, and join tokens with a limited number of uses are paused until 'gangway
restore resume'.

Read 'Restoring' in docs/operations.md before you start the hub.`,
		Example: `  gangway restore /backup/000000007-20261129T031500Z.gangway-backup --data /var/lib/gangway --identity backup.key --hub-name 3f2a... --events since.jsonl
  gangway restore FILE --data /var/lib/gangway --identity backup.key --hub-name 3f2a... --without-events --database postgres://hub@db.example/gangway`,
		RunE: func(c *cobra.Command, arg []string) error {
			return a.restore(c.Context(), arg[0], o)
		},
	}
	f := c.Flags()
	o.add(f)
	f.StringVar(&o.data, "data", "", "the new data folder (required)")
	f.StringArrayVar(&o.events, "events", nil, "file with the audit trail since the backup, as 'gangway events --data DIR --output jsonl --sign' prints it (repeatable)")
	f.BoolVar(&o.unsignedEvents, "unsigned-events", false, "accept events without a signature of the hub: anyone who could write to the file decides what restore deletes")
	f.BoolVar(&o.withoutEvents, "without-events", false, "restore without the audit trail: devices, accounts and tokens that were deleted, disabled or revoked after the backup may work again")
	f.BoolVar(&o.skipDamaged, "skip-damaged-objects", false, "restore everything else if objects are missing or damaged in the backup")
	addS3Flags(f, &o.s3)
	c.AddCommand(a.restoreLostCommand(), a.restoreTokensCommand(), a.restoreResumeCommand())
	return c
}

// restoringFolder holds the restored files until all of them are complete.
const restoringFolder = "restoring"

// restoration is a restore that runs.
type restoration struct {
	restoreFlags
	*app
	path              string // path of the backup's file
	part              string // the folder restoringFolder
	config            postgres.Config
	shared            bool // the database is in PostgreSQL
	info              backup.Info
	damaged           []string
	trail             *aftermath
	repeated, unknown int // numbers of changes that were repeated, and that name unknown things
	done              store.Restored
}

func (a *app) restore(ctx context.Context, path string, o restoreFlags) error {
	if o.data == "" {
		return usagef("--data is needed: the new data folder")
	}
	if (len(o.events) == 0) != o.withoutEvents {
		return usagef("give --events, a file with the audit trail since the backup; or --without-events, if you have no such file")
	}
	r := &restoration{restoreFlags: o, app: a, path: path, part: filepath.Join(o.data, restoringFolder)}
	var err error
	if r.config, r.shared, err = database(ctx); err != nil {
		return err
	}
	if err := r.checkEmpty(); err != nil {
		return err
	}
	info, err := r.verify(ctx, path)
	if err != nil {
		return err
	}
	r.info = info
	if r.trail, err = r.readTrails(info.Header.Begun); err != nil {
		return err
	}
	a.note("Backup number %d, begun at %s (%s), is complete and unchanged.", info.Header.Epoch, info.Header.Begun.Format(time.RFC3339), humanize.Time(info.Header.Begun))
	if err := errors.Join(os.RemoveAll(r.part), os.MkdirAll(r.part, 0o700), os.Chmod(o.data, 0o700)); err != nil {
		return err
	}
	lock, err := serveAlone(o.data)
	if err != nil {
		return err
	}
	defer lock.Close()
	list, err := r.keysAndRows(ctx)
	if err != nil {
		return r.abandoned(err)
	}
	findings, err := r.rest(ctx, list)
	if err != nil {
		return r.abandoned(err)
	}
	if err := r.move(); err != nil {
		return err
	}
	return r.report(findings)
}

// The method `abandoned` removes the files of a failed restore.
func (r *restoration) abandoned(err error) error { return errors.Join(err, os.RemoveAll(r.part)) }

// checkEmpty returns an error if the data folder already contains files of a hub.
func (r *restoration) checkEmpty() error {
	for _, name := range []string{pkiFolder, databaseFile, objectFolder} {
		if path := filepath.Join(r.data, name); exists(path) {
			return fmt.Errorf("%s exists: restore into an empty folder, or move the old data folder away first", path)
		}
	}
	return nil
}

// keysAndRows restores the keys to the folder restoringFolder, and the rows to the database. It
// returns the list of the backup's objects.
func (r *restoration) keysAndRows(ctx context.Context) (list []backup.Object, err error) {
	keys := filepath.Join(r.part, pkiFolder)
	if err := os.Mkdir(keys, 0o700); err != nil {
		return nil, err
	}
	target, err := r.target(ctx)
	if err != nil {
		return nil, err
	}
	rows, next := 0, time.Now().Add(progressEvery)
	info, err := r.pass(ctx, r.path, backup.Visitor{
		Key: func(name string, content []byte) error {
			return os.WriteFile(filepath.Join(keys, name), content, 0o600)
		},
		Rows: func(table string, columns []string, some [][]any, first bool) error {
			if rows += len(some); time.Now().After(next) {
				next = time.Now().Add(progressEvery)
				r.note("So far: %d rows.", rows)
			}
			return target.Add(ctx, table, columns, some, first)
		},
		Object: func(object backup.Object) error {
			list = append(list, object)
			return nil
		},
	})
	if err == nil {
		err = target.Finish(ctx, info.Counters)
	}
	return list, errors.Join(err, target.Close())
}

// target makes the new database.
func (r *restoration) target(ctx context.Context) (transfer.Target, error) {
	h, engine := r.info.Header, transfer.EngineSQLite
	if r.shared {
		engine = transfer.EnginePostgres
	}
	schema := h.Schema
	if engine != h.Engine {
		// SQLite and PostgreSQL number their schema versions differently, so the backup's number
		// cannot be used for another engine. Restore into the newest schema: the backup's columns
		// must fit it.
		schema = transfer.Newest
	}
	if r.shared {
		return transfer.NewPostgres(ctx, r.config, schema)
	}
	return transfer.NewFile(ctx, filepath.Join(r.part, databaseFile), schema)
}

// The method `rest` restores the objects, and checks the result.
func (r *restoration) rest(ctx context.Context, list []backup.Object) (findings []finding.Finding, err error) {
	i := &instance{dir: r.part}
	defer func() { err = errors.Join(err, i.close()) }()
	if i.ca, err = pki.Open(filepath.Join(r.part, pkiFolder), pki.Options{}); err != nil {
		return nil, err
	}
	if r.shared {
		i.engine, err = postgres.Open(ctx, r.config)
	} else {
		i.engine, err = sqlite.Open(ctx, filepath.Join(r.part, databaseFile))
	}
	if err != nil {
		return nil, err
	}
	if err := i.openObjects(ctx, r.s3); err != nil {
		return nil, err
	}
	if err := r.copyObjects(ctx, list, i.objects); err != nil {
		return nil, err
	}
	if err := r.repeatChanges(ctx, i.engine); err != nil {
		return nil, err
	}
	restored := store.Restore{Epoch: r.info.Header.Epoch, Backup: r.info.Header.Begun, Time: time.Now().UTC().Truncate(time.Second)}
	if r.done, err = i.engine.MarkRestored(ctx, restored); err != nil {
		return nil, err
	}
	if findings, err = doctor.Fsck(ctx, i.engine, i.objects, false); err != nil {
		return nil, err
	}
	identities, err := doctor.Identities(ctx, i.engine, i.ca)
	if err != nil {
		return nil, err
	}
	findings = append(findings, identities...)
	if db, ok := i.engine.(*postgres.Store); ok {
		_, err = db.ClaimForHub(ctx, i.ca.HubName())
	}
	return findings, err
}

func (r *restoration) copyObjects(ctx context.Context, list []backup.Object, to objects.Store) error {
	next := time.Now().Add(progressEvery)
	for n, object := range list {
		if time.Now().After(next) {
			next = time.Now().Add(progressEvery)
			r.note("So far: %d of %d objects.", n, len(list))
		}
		err := backup.Get(ctx, filepath.Dir(r.path), object, to, r.identities...)
		var refusal *backup.Refusal
		if errors.As(err, &refusal) && r.skipDamaged {
			r.damaged = append(r.damaged, fmt.Sprintf("%x", object.Key.Sum))
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// move moves the restored files from restoringFolder to their places. A hub starts only if its keys
// exist, so the keys move last.
func (r *restoration) move() error {
	for _, name := range []string{objectFolder, databaseFile, pkiFolder} {
		from := filepath.Join(r.part, name)
		if !exists(from) {
			continue // the database is in PostgreSQL, or the objects are in S3
		}
		if err := os.Rename(from, filepath.Join(r.data, name)); err != nil {
			return err
		}
	}
	return errors.Join(os.RemoveAll(r.part), syncFolder(r.data))
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// timeGap is a period whose events are in no signed file of the audit trail. It is written as JSON.
type timeGap struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

func (r *restoration) report(findings []finding.Finding) error {
	gaps := []timeGap{}
	for _, gap := range r.gaps() {
		gaps = append(gaps, timeGap{gap[0], gap[1]})
	}
	var until *time.Time
	if at, ok := r.covered(); ok {
		until = &at
	}
	done, err := r.json(struct {
		Hub      string    `json:"hub"`
		Epoch    int64     `json:"epoch"`
		Begun    time.Time `json:"begun"` // start of the backup
		Objects  int       `json:"objects"`
		Damaged  []string  `json:"damaged-objects"`
		NewEpoch int64     `json:"new-epoch"`
		Repeated int       `json:"repeated-changes"`
		// Unknown is the number of deletions and revocations that are not repeated, because their
		// device, account or token is not in the backup.
		Unknown int `json:"unknown-changes"`
		// Lost is the largest possible number of lost events of each kind.
		Lost map[string]int `json:"lost-events"`
		// Gaps are the periods whose events are in no signed file of the audit trail.
		Gaps     []timeGap         `json:"event-gaps"`
		Until    *time.Time        `json:"events-until"` // when the newest signed file of events was made
		Sessions int               `json:"ended-sessions"`
		Tokens   int               `json:"paused-tokens"`
		Findings []finding.Finding `json:"findings"`
	}{r.info.Header.Hub, r.info.Header.Epoch, r.info.Header.Begun, r.info.Objects - len(r.damaged), append([]string{}, r.damaged...), r.done.Epoch, r.repeated, r.unknown, r.trail.others, gaps, until, r.done.Sessions, r.done.Tokens, findings})
	if !done {
		err = finding.Write(r.stdout, visibleFindings(findings), r.findingPainter())
		if len(r.damaged) > 0 {
			r.note("%d objects are missing or damaged in the backup; their owners must upload them again.", len(r.damaged))
		}
		r.noteLosses()
		r.note("The hub is restored to %s. Start it with 'gangway serve --data %[1]s' and the options that it had.", r.data)
	}
	if err == nil && finding.Worst(findings) == finding.Problem {
		err = errFindings
	}
	return err
}
