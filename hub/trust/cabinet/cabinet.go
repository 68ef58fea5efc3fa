// Package cabinet reads Microsoft's cabinet files (.cab), as the TPM makers'
// certificates are published in, with Debian's cabextract: cabinets are packed
// with MSZIP or LZX, and it knows both.
//
// The cabinet's list of files is read here, and is where all bounds are
// checked. The files themselves come over cabextract's standard output, one
// behind the other, and are cut by the sizes in that list: nothing that a
// cabinet names is ever made on a disk, so no name in it can lead anywhere.
package cabinet

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Bounds of what is read. Microsoft's cabinet of TPM makers has about 1,000
// files and 1 MB.
const (
	MaxSize  = 32 << 20 // bytes, packed
	MaxTotal = 64 << 20 // bytes of all files, unpacked
	MaxFiles = 10000
	maxName  = 256 // bytes, its end included (MS-CAB 2.3)
	patience = time.Minute
)

// ErrNoTool says that cabextract is not installed.
var ErrNoTool = errors.New("cabinet: cabextract is needed to read a cabinet and is not installed: 'apt-get install cabextract', or unpack the cabinet elsewhere and give the folder")

// File is a file of a cabinet. Name is as the cabinet has it, with / between
// folders, and is for people alone: it may say anything.
type File struct {
	Name    string
	Content []byte
}

// Is reports whether b begins like a cabinet.
func Is(b []byte) bool { return bytes.HasPrefix(b, []byte("MSCF")) }

// Read returns a cabinet's files in its order. It makes a temporary file of
// the cabinet itself and runs cabextract on it.
func Read(ctx context.Context, b []byte) ([]File, error) {
	size, files, err := list(b)
	if err != nil {
		return nil, err
	}
	content, err := unpack(ctx, b[:size], total(files))
	if err != nil {
		return nil, err
	}
	out := make([]File, len(files))
	for i, f := range files {
		out[i] = File{Name: f.name, Content: content[:f.size:f.size]}
		content = content[f.size:]
	}
	return out, nil
}

// entry is a CFFILE (MS-CAB 2.3).
type entry struct {
	name string
	size int
}

func total(files []entry) (n int) {
	for _, f := range files {
		n += f.size
	}
	return n
}

var errTruncated = errors.New("cabinet: it ends before its list of files does")

// Offsets and flags of CFHEADER (MS-CAB 2.1), and sizes of what follows.
const (
	headerSize   = 36
	fileSize     = 16 // of a CFFILE, without its name
	flagPrevious = 0x0001
	flagNext     = 0x0002
)

// list reads the list of files and returns the cabinet's own size, behind
// which a signature may follow.
func list(b []byte) (size int, files []entry, err error) {
	le := binary.LittleEndian
	if !Is(b) || len(b) < headerSize {
		return 0, nil, errors.New("cabinet: this is no cabinet")
	}
	if len(b) > MaxSize {
		return 0, nil, fmt.Errorf("cabinet: it has %d bytes, at most %d are read", len(b), MaxSize)
	}
	cabinet, at := le.Uint32(b[8:]), le.Uint32(b[16:])
	folders, count, flags := le.Uint16(b[26:]), int(le.Uint16(b[28:])), le.Uint16(b[30:])
	if uint64(cabinet) > uint64(len(b)) || cabinet < headerSize || at < headerSize {
		return 0, nil, errTruncated
	}
	if flags&(flagPrevious|flagNext) != 0 {
		return 0, nil, errors.New("cabinet: it is one of several that belong together, which are not read")
	}
	if count > MaxFiles {
		return 0, nil, fmt.Errorf("cabinet: it has %d files, at most %d are read", count, MaxFiles)
	}
	b = b[:cabinet]
	if uint64(at) > uint64(len(b)) {
		return 0, nil, errTruncated
	}
	rest := b[at:]
	sum := 0
	for range count {
		if len(rest) < fileSize+1 {
			return 0, nil, errTruncated
		}
		n, folder := le.Uint32(rest), le.Uint16(rest[8:])
		rest = rest[fileSize:]
		end := bytes.IndexByte(rest[:min(len(rest), maxName)], 0)
		if end < 1 || folder >= folders {
			return 0, nil, errors.New("cabinet: its list of files is damaged")
		}
		if n > MaxTotal || sum+int(n) > MaxTotal {
			return 0, nil, fmt.Errorf("cabinet: its files have more than %d bytes together", MaxTotal)
		}
		sum += int(n)
		name := strings.ReplaceAll(strings.ToValidUTF8(string(rest[:end]), "?"), `\`, "/")
		files = append(files, entry{name, int(n)})
		rest = rest[end+1:]
	}
	return len(b), files, nil
}

// unpack returns the contents of all files, which must have want bytes.
func unpack(ctx context.Context, b []byte, want int) ([]byte, error) {
	tool, err := exec.LookPath("cabextract")
	if err != nil {
		return nil, ErrNoTool
	}
	dir, err := os.MkdirTemp("", "gangway-cab")
	if err != nil {
		return nil, fmt.Errorf("cabinet: %w", err)
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "a.cab")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		return nil, fmt.Errorf("cabinet: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool, "--quiet", "--pipe", name)
	cmd.Dir, cmd.Env, cmd.WaitDelay = dir, []string{"LC_ALL=C"}, time.Second
	var said head
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("cabinet: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cabinet: %w", err)
	}
	content, readErr := io.ReadAll(io.LimitReader(out, int64(want)+1))
	if len(content) > want {
		cancel() // it would go on
	}
	err = errors.Join(readErr, cmd.Wait())
	switch {
	case len(content) != want:
		return nil, fmt.Errorf("cabinet: its files do not have the sizes that it says%s", said.words(dir))
	case err != nil:
		return nil, fmt.Errorf("cabinet: cabextract: %w%s", err, said.words(dir))
	}
	return content, nil
}

// head keeps the first bytes that are written to it.
type head struct{ b []byte }

func (h *head) Write(p []byte) (int, error) {
	h.b = append(h.b, p[:min(len(p), 512-len(h.b))]...)
	return len(p), nil
}

// words is the first line, for an error.
func (h *head) words(dir string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(h.b)), "\n")
	if line = strings.ReplaceAll(line, dir+"/", ""); line == "" {
		return ""
	}
	return fmt.Sprintf(" (%q)", line)
}
