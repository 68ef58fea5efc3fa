package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"

	"gangway/device/install"
	"gangway/device/install/escrow"
	"gangway/device/install/netfile"
	"gangway/hub/api"
	"gangway/image/stick"
	"gangway/internal/cmdline"
	"gangway/internal/process"
	"gangway/wire"
	"gangway/wire/trail/sig"

	"github.com/dustin/go-humanize"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// imageBuilder builds installer images for people who use the hub's web pages. It runs 'gangway
// image build' as a child process. The child has none of the hub's keys, open files or environment
// variables. The hub can kill the child at any moment, and can limit the child's files and memory
// separately.
//
// The child reads the token file from standard input, and the network settings, which may contain a
// proxy's password, from another pipe. So no secret is on a command line, which every user of the
// machine can read.
type imageBuilder struct {
	program                string // the path of gangway
	dir                    string // only for the temporary folders of builds
	kernel, boot, programs string // folders of the parts; `boot` is empty for Debian's folder
	log                    *slog.Logger
}

var _ api.ImageBuilder = (*imageBuilder)(nil)

// imageFolder is the name of the folder, in the data folder, for the files of running builds.
const imageFolder = "image-builds"

// imageFlags are the flags of 'gangway serve' that control how the hub builds images.
type imageFlags struct {
	parts  string
	atOnce int
	limits api.ImageLimits
	size   string
}

func (i *imageFlags) add(f *pflag.FlagSet) {
	f.IntVar(&i.atOnce, "image-builds", 1, "how many installer images the hub's web pages may build at the same time; each build needs about 700 MiB of memory; 0: the hub builds no images")
	f.StringVar(&i.parts, "image-parts", "", "folder with the parts that the hub builds images from, as given to 'gangway image fetch --dir' (default: the folder that 'gangway image fetch' uses without --dir)")
	cmdline.SpanVar(f, &i.limits.Time, "image-time", api.DefaultImageLimits.Time, "how long the build of one image may take")
	f.StringVar(&i.size, "image-size", "512MiB", "maximum size of one image, and of each file that the build writes")
}

// check checks the values of the flags.
func (i *imageFlags) check() error {
	size, err := humanize.ParseBytes(i.size)
	switch {
	case err != nil || size < 1<<20 || size > 1<<40:
		return usagef("--image-size %q is not a size from 1MiB to 1TiB, such as 512MiB", i.size)
	case i.limits.Time <= 0:
		return usagef("--image-time must be more than 0")
	case i.atOnce < 0 || i.atOnce > 64:
		return usagef("--image-builds must be a number from 0 to 64")
	}
	i.limits.AtOnce, i.limits.Size = i.atOnce, int64(size)
	return nil
}

// The method `into` sets the hub's image builder. If --image-builds is 0, it sets no image builder.
// The argument `dir` is the hub's data folder, which the hub has locked.
func (i *imageFlags) into(o *serverOptions, dir string, log *slog.Logger) error {
	dir = filepath.Join(dir, imageFolder)
	// A hub that was killed during a build has left files. Remove them, because an image contains a
	// secret.
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if i.atOnce == 0 {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b := &imageBuilder{program: self, dir: dir, kernel: i.parts, programs: programsFolder(self), log: log}
	if b.kernel == "" {
		// ignore the error: without a folder, Missing returns the remedy
		b.kernel, _ = kernelFolder()
	}
	o.images, o.imageLimits = b, i.limits
	return nil
}

// Missing returns a sentence that names the programs and files that the operator must install. The
// sentence does not contain paths of this machine.
func (b *imageBuilder) Missing() string {
	if err := stick.HaveParts(cmp.Or(b.kernel, "/nonexistent"), b.boot, b.programs); err != nil {
		return "Parts of images are missing on the hub. The hub's operator gets them with 'gangway image fetch'."
	}
	if _, err := exec.LookPath("mke2fs"); err != nil {
		return "A program for images is missing on the hub. The hub's operator must install the package e2fsprogs."
	}
	return ""
}

// Check checks the options that a person typed. The child checks them again, but only after the hub
// has made a join token.
func (b *imageBuilder) Check(o api.ImageOptions) error {
	if _, err := install.ParseRule(o.Disk); err != nil {
		return &api.ImageOptionError{Option: "disk", Reason: sentence(err)}
	}
	// Accept only a recipient: the child would read any other value as the name of a file on the
	// hub.
	if o.Escrow != "" {
		err := escrow.CheckRecipient(o.Escrow)
		if err == nil && !strings.HasPrefix(o.Escrow, "age1") {
			err = errors.New("a recipient begins with age1")
		}
		if err != nil {
			return &api.ImageOptionError{Option: "escrow", Reason: sentence(err)}
		}
	}
	if o.RevisionKey != "" {
		if _, err := sig.ParseKeys([]byte(o.RevisionKey)); err != nil {
			return &api.ImageOptionError{Option: "revision-key", Reason: sentence(err)}
		}
	}
	text, added := networkFile(o.Network)
	_, err := netfile.Parse([]byte(text))
	var mistake *netfile.Mistake
	switch {
	case errors.As(err, &mistake) && mistake.Line > added:
		return &api.ImageOptionError{Option: "network", Reason: fmt.Sprintf("Line %d: %s", mistake.Line-added, sentence(errors.New(mistake.Text)))}
	case errors.As(err, &mistake):
		return &api.ImageOptionError{Option: "network", Reason: sentence(errors.New(mistake.Text))}
	}
	return err
}

var versionLine = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?m)^\s*version\s*=`) })

// networkFile makes the text of network.txt from the text that a person typed. If the first line is
// missing, networkFile adds that line. The result `added` is the number of added lines.
func networkFile(typed string) (text string, added int) {
	if strings.TrimSpace(typed) == "" || versionLine().MatchString(typed) {
		return typed, 0
	}
	return fmt.Sprintf("version = %d\n%s", netfile.Version, typed), 1
}

// sentence returns an error's text as a sentence.
func sentence(err error) string {
	text := strings.TrimSuffix(err.Error(), ".") + "."
	return strings.ToUpper(text[:1]) + text[1:]
}

// Build builds an image. The child process reads `file`, the token file or hub file, from standard
// input. Build returns the image as an open file whose name is already removed, so that the file
// disappears when the caller closes it.
func (b *imageBuilder) Build(ctx context.Context, o api.ImageOptions, file []byte, size int64, step func(string)) (_ *api.Image, err error) {
	if err := b.Check(o); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.dir, "") // mode 0700
	if err != nil {
		return nil, err
	}
	defer func() {
		if gone := os.RemoveAll(dir); gone != nil {
			b.log.Error("cannot remove the files of an image: remove them, because they contain a join token's secret", "folder", dir, "err", gone)
		}
	}()
	out := filepath.Join(dir, "installer.img")
	if err := b.run(ctx, o, file, size, dir, out, step); err != nil {
		return nil, err
	}
	f, err := os.Open(out)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() > size {
		err = api.ErrImageSize
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &api.Image{ReadCloser: f, Size: info.Size()}, nil
}

// run runs the child until it ends, or until ctx ends.
func (b *imageBuilder) run(ctx context.Context, o api.ImageOptions, file []byte, size int64, dir, out string, step func(string)) error {
	arg := []string{"image", "build", stick.Target, "--out=" + out, "--kernel=" + b.kernel, "--programs=" + b.programs}
	if o.Claim {
		arg = append(arg, "--claim", "--hub-file=-")
	} else {
		arg = append(arg, "--token-file=-")
	}
	for name, value := range map[string]string{"disk": o.Disk, "escrow-to": o.Escrow, "boot": b.boot} {
		if value != "" {
			arg = append(arg, "--"+name+"="+value)
		}
	}
	messages := &childOutput{step: step}
	cmd := exec.Command(b.program, arg...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, io.Discard, messages
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "LC_ALL=C", "GOTRACEBACK=none"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the child's own children end with it
	input, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	network, _ := networkFile(o.Network)
	for _, option := range []struct{ flag, text string }{{"network-file", network}, {"revision-key", o.RevisionKey}} {
		if option.text == "" {
			continue
		}
		closeBoth, err := pipeTo(cmd, option.flag, option.text)
		if err != nil {
			return err
		}
		defer closeBoth()
	}
	child, err := process.Start(cmd)
	if err != nil {
		return err
	}
	// The child waits for the token file before it does anything else, and gets this file only
	// below, so the bounds apply from the beginning.
	if err := bound(child.Pid(), size); err != nil {
		kill(child)
		return err
	}
	go func() {
		_, _ = input.Write(file)
		input.Close()
	}()
	select {
	case <-child.Done():
	case <-ctx.Done():
		kill(child)
		return ctx.Err()
	}
	if err := child.Err(); err != nil {
		if tooLarge(err, messages.String()) {
			return api.ErrImageSize
		}
		return fmt.Errorf("gangway image build: %w: %s", err, withoutSecret(messages.String(), file))
	}
	return nil
}

// pipeTo makes a pipe that contains `text`, and gives the child the pipe's name as the value of a
// flag. After the child has ended, the caller calls `closeBoth`.
func pipeTo(cmd *exec.Cmd, flag, text string) (closeBoth func(), err error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Args = append(cmd.Args, fmt.Sprintf("--%s=/dev/fd/%d", flag, 3+len(cmd.ExtraFiles))) // see exec.Cmd.ExtraFiles
	cmd.ExtraFiles = append(cmd.ExtraFiles, out)
	go func() {
		_, _ = io.WriteString(in, text) // fails if the child ends before it has read everything
		in.Close()
	}()
	return func() {
		in.Close()
		out.Close()
	}, nil
}

// tooLarge reports whether the child ended because it, or one of its own children, wrote a file
// that was too large (SIGXFSZ). A Go program that gets this signal ends with a message that names
// the signal.
func tooLarge(err error, messages string) bool {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGXFSZ {
			return true
		}
	}
	return strings.Contains(strings.ToLower(messages), "file size limit exceeded") || strings.Contains(messages, syscall.EFBIG.Error())
}

// bound limits the size of each file that a process writes, and prevents core dumps.
func bound(pid int, size int64) error {
	for what, max := range map[int]uint64{unix.RLIMIT_FSIZE: uint64(size), unix.RLIMIT_CORE: 0} {
		if err := unix.Prlimit(pid, what, &unix.Rlimit{Cur: max, Max: max}, nil); err != nil {
			return fmt.Errorf("limit the process that builds the image: %w", err)
		}
	}
	return nil
}

// kill ends the child and its own children, and waits for the child.
func kill(child *process.Process) {
	_ = unix.Kill(-child.Pid(), unix.SIGKILL) // fails only if the processes have ended
	<-child.Done()
}

// withoutSecret removes the join token's secret from the child's messages, because the messages go
// to the hub's log. The child never writes the secret, so the removal is only a second line of
// defence.
func withoutSecret(text string, token []byte) string {
	if t, err := wire.ParseTokenFile(token); err == nil {
		text = strings.ReplaceAll(text, t.Token, "[secret]")
	}
	return text
}

// childOutput reads the child's messages, and reports each line as a step. It keeps the last
// maxChildTail bytes of the messages.
type childOutput struct {
	step func(string)

	mu   sync.Mutex
	line []byte // guarded by mu: the unfinished line
	tail []byte // guarded by mu
}

// maxChildLine is the maximum length of a line of the child's messages, and maxChildTail is how
// much of the end of the messages is kept, both in bytes.
const maxChildLine, maxChildTail = 200, 4000

func (c *childOutput) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tail = append(c.tail, p...); len(c.tail) > maxChildTail {
		c.tail = bytes.Clone(c.tail[len(c.tail)-maxChildTail:])
	}
	for _, b := range p {
		if b != '\n' {
			if len(c.line) < maxChildLine {
				c.line = append(c.line, b)
			}
			continue
		}
		// Do not report a line with a path or a URL, because it describes the hub's machine.
		if line := strings.ToValidUTF8(string(c.line), ""); !strings.Contains(line, "/") {
			c.step(line)
		}
		c.line = c.line[:0]
	}
	return len(p), nil
}

func (c *childOutput) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.TrimSpace(string(c.tail))
}
