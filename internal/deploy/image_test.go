package deploy_test

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

const repository = "../.."

// program returns the path of a program that `make build` made, and makes it if it is missing.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(repository, "build", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if out, err := exec.Command("make", "-s", "-C", repository, "build").CombinedOutput(); err != nil {
			t.Fatalf("make build: %v: %s", err, out)
		}
	}
	return path
}

// image is an unpacked image.
type image struct {
	root   string
	config v1.Config
	// volumes are folders of the image that a new volume copies, with their owner and mode.
	volumes map[string]folder
}

type folder struct {
	uid, gid int
	mode     fs.FileMode
}

// hubImage makes the OCI image of a release with the program in build/, and unpacks it.
func hubImage(t *testing.T) *image {
	t.Helper()
	packed := t.TempDir()
	if text, err := exec.Command("tar", "-xf", hubArchive(t), "-C", packed).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return unpack(t, onlyImage(t, packed))
}

// hubArchive makes the OCI image of a release with the program in build/, and returns the name of
// the archive.
func hubArchive(t *testing.T) string {
	t.Helper()
	out := t.TempDir()
	release := exec.Command("go", "run", ".", "-out", out, "-version", "0.0.0", "-date", "2026-11-29T00:00:00Z", "-image-of", program(t, "gangway"))
	release.Dir = "../release"
	if text, err := release.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return filepath.Join(out, "gangway-0.0.0-oci.tar")
}

// unpack unpacks an image into a new folder.
func unpack(t *testing.T, img v1.Image) *image {
	t.Helper()
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	i := &image{root: t.TempDir(), config: config.Config, volumes: map[string]folder{}}
	content := mutate.Extract(img)
	defer content.Close()
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if err == io.EOF {
			return i
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := i.add(h, r); err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
	}
}

// onlyImage returns the only image of an OCI image layout. The layout's index names a second index,
// which names the image.
func onlyImage(t *testing.T, dir string) v1.Image {
	t.Helper()
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := index.IndexManifest()
		if err != nil || len(m.Manifests) != 1 {
			t.Fatalf("%+v, %v: exactly one entry was expected", m, err)
		}
		d := m.Manifests[0]
		if d.MediaType.IsImage() {
			img, err := index.Image(d.Digest)
			if err != nil {
				t.Fatal(err)
			}
			return img
		}
		if index, err = index.ImageIndex(d.Digest); err != nil {
			t.Fatal(err)
		}
	}
}

func (i *image) add(h *tar.Header, content io.Reader) error {
	path := filepath.Join(i.root, h.Name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	mode := h.FileInfo().Mode()
	switch h.Typeflag {
	case tar.TypeDir:
		i.volumes["/"+strings.Trim(h.Name, "/")] = folder{h.Uid, h.Gid, mode}
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
	case tar.TypeReg:
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	default:
		return errors.New("the image has only files and folders")
	}
	return errors.Join(os.Chown(path, h.Uid, h.Gid), os.Chmod(path, mode))
}

// user returns the ids of a user in the form UID:GID, and fails the test if the user is a name, is
// root, or has no group. An engine cannot check that a named user is not root.
func user(t *testing.T, text string) (uid, gid int) {
	t.Helper()
	u, g, ok := strings.Cut(text, ":")
	uid, err1 := strconv.Atoi(u)
	gid, err2 := strconv.Atoi(g)
	if !ok || err1 != nil || err2 != nil || uid == 0 || gid == 0 {
		t.Fatalf("the user is %q; the ids of a user and of a group other than root were expected", text)
	}
	return uid, gid
}

// postgresImage returns an image with Debian's PostgreSQL. It takes the place of PostgreSQL's own
// image, which cannot be downloaded here, and has the same user, folders, environment and entry
// point. The entry point does what the documentation of PostgreSQL's image says about an empty data
// folder.
func postgresImage(t *testing.T) (*image, map[string]string) {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(found) == 0 {
		t.Skip("PostgreSQL is not installed: run scripts/install.sh")
	}
	i := &image{root: "/", volumes: map[string]folder{
		"/var/lib/postgresql/data": {999, 999, 0o700},
		"/run/postgresql":          {999, 999, fs.ModeSetgid | fs.ModeSticky | 0o777},
	}}
	i.config = v1.Config{
		Entrypoint: []string{"/bin/bash", "/entrypoint.sh"},
		Env:        []string{"PATH=" + found[len(found)-1] + ":/usr/bin:/bin", "PGDATA=/var/lib/postgresql/data", "LC_ALL=C.UTF-8"},
		WorkingDir: "/",
	}
	return i, map[string]string{
		"/etc/passwd":    "root:x:0:0::/root:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\n",
		"/etc/group":     "root:x:0:\npostgres:x:999:\n",
		"/entrypoint.sh": postgresEntrypoint,
	}
}

const postgresEntrypoint = `set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	initdb --username=postgres --pwfile="$POSTGRES_PASSWORD_FILE" --no-sync $POSTGRES_INITDB_ARGS
	PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
	export PGPASSWORD
	pg_ctl --wait -o "-c listen_addresses=" start
	for f in /docker-entrypoint-initdb.d/*.sql; do
		psql -v ON_ERROR_STOP=1 --no-psqlrc -h /run/postgresql -U postgres -f "$f"
	done
	pg_ctl --wait -m fast stop
	unset PGPASSWORD
fi
exec "$@"
`
