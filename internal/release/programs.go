package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// program returns the path of a program that buildPrograms built.
func (r *release) program(arch, name string) string { return filepath.Join(r.work, arch, name) }

// buildPrograms builds all programs for all architectures of the release. It also builds them for
// the architecture of the building machine, which runs them to write their man pages.
func (r *release) buildPrograms(ctx context.Context) error {
	for _, arch := range append(r.archs, runtime.GOARCH) {
		if _, err := os.Stat(filepath.Join(r.work, arch)); err == nil {
			continue
		}
		if err := r.build(ctx, arch); err != nil {
			return err
		}
	}
	if r.signer {
		return r.buildSigner(ctx)
	}
	return nil
}

// signerArch is the only architecture of gangway-signer: the program needs cgo, so another
// architecture would need another C compiler and C library.
const signerArch = "amd64"

// buildSigner builds gangway-signer, which is a separate module, and the only program that is
// linked with the C library.
func (r *release) buildSigner(ctx context.Context) error {
	if runtime.GOARCH != signerArch {
		return fmt.Errorf("gangway-signer can be built on %s only, not on %s", signerArch, runtime.GOARCH)
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", r.linkFlags(), "-o", r.program(signerArch, "gangway-signer"), ".")
	cmd.Dir = filepath.Join(r.root, "cmd/gangway-signer")
	cmd.Env = append(cleanEnvironment(), "CGO_ENABLED=1", "GOOS=linux", "GOARCH="+signerArch, "GOAMD64=v1", "GOFLAGS=", "GOWORK=off")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build gangway-signer, which needs gcc: %w: %s", err, output)
	}
	return nil
}

// linkFlags returns the linker's flags, which write the version into a program.
func (r *release) linkFlags() string {
	const p = "gangway/internal/version"
	return fmt.Sprintf("-s -w -X %s.version=%s -X %s.commit=%s -X %s.date=%s", p, r.version, p, r.commit, p, r.date.Format(time.RFC3339))
}

// cleanEnvironment returns the environment without the variables that change the output of the go
// command.
func cleanEnvironment() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "GO386=") || strings.HasPrefix(v, "GOEXPERIMENT=") || strings.HasPrefix(v, "CGO_")
	})
}

// build builds statically linked programs that contain their version. The programs do not depend on
// the path of the source tree, on Git or on the environment.
func (r *release) build(ctx context.Context, arch string) error {
	out := filepath.Join(r.work, arch)
	if err := os.Mkdir(out, 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", r.linkFlags(), "-o", out+"/", "./cmd/...")
	cmd.Dir = r.root
	cmd.Env = append(cleanEnvironment(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=", "GOWORK=off")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", arch, err, output)
	}
	return nil
}

// share returns the path of a file in the folder of man pages and completions. Packages install
// this folder as /usr/share.
func (r *release) share(name string) string { return filepath.Join(r.work, "share", name) }

// writeDocs makes the programs write their man pages and completions. It compresses the man pages,
// as Debian's policy requires.
func (r *release) writeDocs(ctx context.Context) error {
	names := []string{"gangway", "gangway-agent"}
	if r.signer {
		names = append(names, "gangway-signer")
	}
	for _, name := range names {
		cmd := exec.CommandContext(ctx, r.program(runtime.GOARCH, name), "docs", r.share(name))
		if output, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s docs: %w: %s", name, err, output)
		}
		pages, err := filepath.Glob(filepath.Join(r.share(name), "man/man1/*.1"))
		if err != nil {
			return err
		}
		for _, page := range pages {
			b, err := os.ReadFile(page)
			if err != nil {
				return err
			}
			if err := os.WriteFile(page+".gz", compressed(b), 0o644); err != nil {
				return err
			}
			if err := os.Remove(page); err != nil {
				return err
			}
		}
	}
	return nil
}

// The function `compressed` returns `b` in gzip format, without a file name and a time.
func compressed(b []byte) []byte {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err == nil {
		_, err = w.Write(b)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil { // cannot happen: writing to a bytes.Buffer never fails
		panic(err)
	}
	return out.Bytes()
}
