// Command release makes a release of Gangway: programs, Debian packages, an OCI image, a bill of
// materials and checksums. `make release` runs it.
//
// The command is a separate module, so that the hub and the agent do not depend on the libraries
// that make packages. It imports no package of Gangway. It builds Gangway's programs with the go
// command in the source tree.
//
// The output depends only on the source tree, the version and the Go version. It does not depend on
// the time, a path or a user name, so two runs write the same bytes.
package main

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// architectures are the architectures of a release, in Go's names. Debian uses the same names.
var architectures = []string{"amd64", "arm64"}

// release contains the settings that all steps of making a release use.
type release struct {
	root    string // the source tree
	out     string // folder to which the release is written
	work    string // folder for intermediate files
	version string // semantic version without a leading v
	commit  string
	date    time.Time // the commit's date; all times in a release equal it
	archs   []string
	signer  bool // also make the package gangway-signer, for signerArch
	level   int  // gzip level of the image's layer
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "release: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var r release
	var date, imageOf string
	var debs bool
	f := flag.NewFlagSet("release", flag.ContinueOnError)
	f.StringVar(&r.root, "root", "../..", "the source tree")
	f.StringVar(&r.out, "out", "", "write the release to this folder, after deleting the folder's content")
	f.StringVar(&r.version, "version", "", "the version, such as 1.2.0")
	f.StringVar(&r.commit, "commit", "", "the Git commit")
	f.StringVar(&date, "date", "", "the commit's date, RFC 3339")
	f.BoolVar(&debs, "debs-only", false, "make only the Debian packages, for amd64")
	f.BoolVar(&r.signer, "signer", false, "also make the package gangway-signer, which needs gcc on "+signerArch)
	f.StringVar(&imageOf, "image-of", "", "make only the OCI image, for this machine's architecture, with this hub program and little compression; for tests")
	if err := f.Parse(args); err != nil {
		return err
	}
	if r.out == "" || r.version == "" {
		return errors.New("-out and -version are required: run `make release`")
	}
	var err error
	if r.date, err = time.Parse(time.RFC3339, date); err != nil {
		return fmt.Errorf("-date: %w", err)
	}
	r.date = r.date.UTC()
	r.archs, r.level = architectures, gzip.BestCompression
	if debs {
		r.archs = []string{"amd64"}
	}
	for _, path := range []*string{&r.root, &r.out} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	if r.work, err = os.MkdirTemp("", "gangway-release-"); err != nil {
		return err
	}
	defer os.RemoveAll(r.work)
	if err := os.RemoveAll(r.out); err != nil {
		return err
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return err
	}
	if imageOf != "" {
		return r.writeImageOf(ctx, imageOf)
	}

	steps := []struct {
		name string
		do   func(context.Context) error
		all  bool // skipped with -debs-only
	}{
		{"programs", r.buildPrograms, false},
		{"man pages and completions", r.writeDocs, false},
		{"Debian packages", r.writeDebs, false},
		{"archives", r.writeArchives, true},
		{"OCI image", r.writeImage, true},
		{"bill of materials", r.writeSBOM, true},
		{"checksums", r.writeSums, true},
	}
	for _, s := range steps {
		if debs && s.all {
			continue
		}
		start := time.Now()
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Fprintf(os.Stderr, "%6.1f s  %s\n", time.Since(start).Seconds(), s.name)
	}
	return nil
}

// sumsFile is the name of the file with the hashes of all other files. It is written last.
const sumsFile = "SHA256SUMS"

func (r *release) writeSums(context.Context) error {
	list, err := os.ReadDir(r.out)
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, e := range list {
		f, err := os.Open(filepath.Join(r.out, e.Name()))
		if err != nil {
			return err
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		fmt.Fprintf(&b, "%x  %s\n", h.Sum(nil), e.Name())
	}
	return os.WriteFile(filepath.Join(r.out, sumsFile), []byte(b.String()), 0o644)
}

// file is a file of a package or an archive.
type file struct {
	source string      // path of the file with the content; empty for a folder
	path   string      // path in the package, with a leading slash
	mode   os.FileMode // permissions
	config bool        // a conffile of dpkg: an administrator's changes survive an upgrade
}

// tree returns the files below the folder `folder`, sorted. In the package, the paths of the files
// begin with `path`.
func tree(folder, path string) ([]file, error) {
	var files []file
	err := filepath.WalkDir(folder, func(at string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		inside, err := filepath.Rel(folder, at)
		files = append(files, file{source: at, path: filepath.Join(path, inside), mode: 0o644})
		return err
	})
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	return files, err
}
