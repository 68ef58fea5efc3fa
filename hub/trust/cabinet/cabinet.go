// Package cabinet reads Microsoft's cabinet files (.cab), in which Microsoft publishes the TPM
// makers' certificates. It unpacks them with Debian's cabextract, which supports both MSZIP and
// LZX.
//
// This package reads the cabinet's list of files and checks all bounds. cabextract writes the
// contents of the files to its standard output, one after another, and this package splits the
// output by the sizes in the list. No file name from a cabinet is used on disk, so a name such as
// ../file cannot cause a write outside a folder.
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

// Bounds on a cabinet. Microsoft's cabinet of TPM makers' certificates has about 1,000 files and 1
// MB.
const (
	MaxSize  = 32 << 20 // bytes, packed
	MaxTotal = 64 << 20 // bytes of all files, unpacked
	MaxFiles = 10000
	maxName  = 256 // bytes, with the final zero (MS-CAB 2.3)
	patience = time.Minute
)

// ErrNoTool means that cabextract is not installed.
var ErrNoTool = errors.New("cabinet: cabextract, which unpacks cabinets, is not installed: run 'apt-get install cabextract', or unpack the cabinet elsewhere and name the folder")

// File is one file of a cabinet. Name comes from the cabinet, with / between folders. It is not
// validated, so only display it, and never use it as a path.
type File struct {
	Name    string
	Content []byte
}

// Is reports whether the file `b` begins with MSCF, as every cabinet does.
func Is(b []byte) bool { return bytes.HasPrefix(b, []byte("MSCF")) }

// Read returns a cabinet's files in order. It writes the cabinet to a temporary file, on which it
// runs cabextract.
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

// entry is one file in the list of files: a CFFILE structure (MS-CAB 2.3).
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

var errTruncated = errors.New("cabinet: the file is truncated: it ends inside its list of files")

// Sizes and flags of CFHEADER (MS-CAB 2.1) and CFFILE (2.3).
const (
	headerSize   = 36
	fileSize     = 16 // of a CFFILE, without its name
	flagPrevious = 0x0001
	flagNext     = 0x0002
)

// The function `list` reads the list of files. It also returns the cabinet's size, because a
// signature may follow the cabinet in `b`.
func list(b []byte) (size int, files []entry, err error) {
	le := binary.LittleEndian
	if !Is(b) || len(b) < headerSize {
		return 0, nil, errors.New("cabinet: the file is not a cabinet: it does not begin with MSCF")
	}
	if len(b) > MaxSize {
		return 0, nil, fmt.Errorf("cabinet: the file has %d bytes; at most %d are allowed", len(b), MaxSize)
	}
	cabinet, at := le.Uint32(b[8:]), le.Uint32(b[16:])
	folders, count, flags := le.Uint16(b[26:]), int(le.Uint16(b[28:])), le.Uint16(b[30:])
	if uint64(cabinet) > uint64(len(b)) || cabinet < headerSize || at < headerSize {
		return 0, nil, errTruncated
	}
	if flags&(flagPrevious|flagNext) != 0 {
		return 0, nil, errors.New("cabinet: the file is a part of a cabinet set; only single cabinets are supported")
	}
	if count > MaxFiles {
		return 0, nil, fmt.Errorf("cabinet: the file lists %d files; at most %d are allowed", count, MaxFiles)
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
			return 0, nil, errors.New("cabinet: the list of files is damaged")
		}
		if n > MaxTotal || sum+int(n) > MaxTotal {
			return 0, nil, fmt.Errorf("cabinet: the files have more than %d bytes in total", MaxTotal)
		}
		sum += int(n)
		name := strings.ReplaceAll(strings.ToValidUTF8(string(rest[:end]), "?"), `\`, "/")
		files = append(files, entry{name, int(n)})
		rest = rest[end+1:]
	}
	return len(b), files, nil
}

// unpack returns the concatenated contents of all files, which must be `want` bytes in total.
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
		cancel() // stop cabextract: its remaining output is not needed
	}
	err = errors.Join(readErr, cmd.Wait())
	switch {
	case len(content) != want:
		return nil, fmt.Errorf("cabinet: the unpacked files do not have the sizes in the list of files%s", said.words(dir))
	case err != nil:
		return nil, fmt.Errorf("cabinet: cabextract: %w%s", err, said.words(dir))
	}
	return content, nil
}

// head keeps the first 512 bytes that are written to it, and discards the rest.
type head struct{ b []byte }

func (h *head) Write(p []byte) (int, error) {
	h.b = append(h.b, p[:min(len(p), 512-len(h.b))]...)
	return len(p), nil
}

// words returns the first line of the output in a form that can be appended to an error, with the
// folder `dir` removed from file names.
func (h *head) words(dir string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(h.b)), "\n")
	if line = strings.ReplaceAll(line, dir+"/", ""); line == "" {
		return ""
	}
	return fmt.Sprintf(" (%q)", line)
}
