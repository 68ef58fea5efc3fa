package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// containerUser is the id of the user that runs the hub in a container. The user is not root, and
// no files outside the container should belong to this id.
const containerUser = 65532

// writeImage writes an OCI image layout as one tar file. It has one image for each architecture,
// and each image contains only the hub.
func (r *release) writeImage(context.Context) error {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range r.archs {
		image, err := r.image(arch)
		if err != nil {
			return err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        image,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	index = mutate.Annotations(index, r.annotations()).(v1.ImageIndex)
	folder := filepath.Join(r.work, "oci")
	at, err := layout.Write(folder, empty.Index)
	if err != nil {
		return err
	}
	name := map[string]string{"org.opencontainers.image.ref.name": tag(r.version)}
	if err := at.AppendIndex(index, layout.WithAnnotations(name)); err != nil {
		return err
	}
	files, err := tree(folder, "/")
	if err != nil {
		return err
	}
	out, err := os.Create(filepath.Join(r.out, "gangway-"+r.version+"-oci.tar"))
	if err != nil {
		return err
	}
	w := newTar(out, r.date)
	for _, f := range files {
		if err := w.file(f.path[1:], f.source, 0o644); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), out.Close())
}

// writeImageOf writes the OCI image with the hub `program`, for the architecture of this machine.
// Tests use it, because building and compressing all programs of a release takes minutes.
func (r *release) writeImageOf(ctx context.Context, program string) error {
	r.archs, r.level = []string{runtime.GOARCH}, gzip.BestSpeed
	program, err := filepath.Abs(program)
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(r.work, runtime.GOARCH), 0o755); err != nil {
		return err
	}
	if err := os.Symlink(program, r.program(runtime.GOARCH, "gangway")); err != nil {
		return err
	}
	return r.writeImage(ctx)
}

func (r *release) annotations() map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":    "Gangway hub",
		"org.opencontainers.image.version":  r.version,
		"org.opencontainers.image.revision": r.commit,
		"org.opencontainers.image.created":  r.date.Format("2006-01-02T15:04:05Z"),
		"org.opencontainers.image.licenses": "Apache-2.0",
	}
}

// tag converts a version to a tag of an OCI image. A tag cannot contain a plus sign, so tag
// replaces it with a hyphen.
func tag(version string) string {
	return string(bytes.ReplaceAll([]byte(version), []byte("+"), []byte("-")))
}

// image returns the OCI image for one architecture.
func (r *release) image(arch string) (v1.Image, error) {
	var content bytes.Buffer
	w := newTar(&content, r.date)
	user := strconv.Itoa(containerUser)
	passwd := "gangway:x:" + user + ":" + user + ":Gangway hub:/var/lib/gangway:/sbin/nologin\n"
	err := errors.Join(
		w.bytes("etc/passwd", []byte(passwd), 0o644),
		w.bytes("etc/group", []byte("gangway:x:"+user+":\n"), 0o644),
		w.folder("tmp", 0o1777, 0), // the hub stores objects here while it uploads them to a bucket
		w.file("usr/bin/gangway", r.program(arch, "gangway"), 0o755),
		w.folder("var/lib/gangway", 0o700, containerUser),
		w.Close(),
	)
	if err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content.Bytes())), nil }
	layer, err := tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(r.level))
	if err != nil {
		return nil, err
	}
	image := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	image = mutate.ConfigMediaType(image, types.OCIConfigJSON)
	if image, err = mutate.Append(image, mutate.Addendum{Layer: layer, History: v1.History{Created: v1.Time{Time: r.date}, CreatedBy: "make release"}}); err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	config.Created = v1.Time{Time: r.date}
	config.Config = v1.Config{
		User:         user + ":" + user,
		Entrypoint:   []string{"/usr/bin/gangway"},
		Cmd:          []string{"serve", "--data", "/var/lib/gangway", "--listen", ":12443"},
		Env:          []string{"PATH=/usr/bin"},
		WorkingDir:   "/var/lib/gangway",
		ExposedPorts: map[string]struct{}{"12443/tcp": {}},
		Volumes:      map[string]struct{}{"/var/lib/gangway": {}},
		Labels:       r.annotations(),
	}
	return mutate.ConfigFile(image, config)
}
