package trail

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"gangway/internal/strictjson"
)

// Bounds of messages, in bytes.
const (
	MaxState    = 1 << 20
	MaxProgress = 64 << 10
	MaxMeta     = 64 << 10
	// MaxAnswer is the largest size of the hub's list of revisions that a device reads. A list with
	// one revision always fits, with the revision's state, progress and meta.
	MaxAnswer = 2 << 20
)

// Bounds of a file's path in a revision's folder.
const (
	maxPath  = 1024 // bytes
	maxName  = 255  // bytes of one path element
	maxParts = 32   // elements
)

// Specs are the accepted values of "#spec", the format of a state.
var Specs = []string{"pantavisor-service-system@1", "pantavisor-multi-platform@1", "pantavisor-service-embed@1"}

// Sum is a SHA-256.
type Sum = [sha256.Size]byte

// State is a state that ParseState accepted.
type State struct {
	JSON    []byte // compact
	Objects []Sum  // the objects that the state names, each once, sorted

	members map[string]any // JSON as encoding/json decodes it
}

// ParseState reads a state: a JSON object of at most MaxState bytes and strictjson.MaxStorableDepth
// levels. The value of "#spec" is one of Specs. The name of every other member is a file's name.
// The member's value is an object's SHA-256, as 64 lower-case hexadecimal digits. If the file's
// name ends in ".json", the value may be any JSON value.
//
// ParseState accepts any file name. State.Files checks the names.
func ParseState(text []byte) (*State, error) {
	if len(text) > MaxState {
		return nil, fmt.Errorf("the state has more than %d bytes", MaxState)
	}
	compact, members, err := strictjson.Storable(text)
	if err != nil {
		return nil, fmt.Errorf("the state: %w", err)
	}
	if spec, _ := members["#spec"].(string); !slices.Contains(Specs, spec) {
		return nil, fmt.Errorf(`the state's "#spec" is not one of %s`, strings.Join(Specs, ", "))
	}
	s := &State{JSON: compact, members: members}
	for name, value := range members {
		if name == "#spec" {
			continue
		}
		sum, isSum := sumOf(value)
		switch {
		case isSum:
			s.Objects = append(s.Objects, sum)
		case !strings.HasSuffix(name, ".json"):
			return nil, fmt.Errorf("the value of the file %q in the state is not an object's SHA-256: write 64 lower-case hexadecimal digits", clip(name, 100))
		}
	}
	slices.SortFunc(s.Objects, func(a, b Sum) int { return slices.Compare(a[:], b[:]) })
	s.Objects = slices.Compact(s.Objects)
	return s, nil
}

// sumOf parses a value of a state as the SHA-256 of an object.
func sumOf(value any) (sum Sum, ok bool) {
	text, _ := value.(string)
	if len(text) != hex.EncodedLen(len(sum)) || strings.ToLower(text) != text {
		return sum, false
	}
	_, err := hex.Decode(sum[:], []byte(text))
	return sum, err == nil
}

// Sum is the SHA-256 of the state's canonical JSON. States that differ only in the order of names,
// in spaces or in the spelling of numbers and strings have the same sum.
func (s *State) Sum() Sum { return sha256.Sum256(canonical(nil, s.members)) }

// ObjectSums returns the elements of Objects in hexadecimal.
func (s *State) ObjectSums() []string {
	var list []string
	for _, sum := range s.Objects {
		list = append(list, hex.EncodeToString(sum[:]))
	}
	return list
}

// File is a file of a state: an object, or a document in the state itself.
type File struct {
	Path     string          // relative, with slashes; stays below the revision's folder
	Object   string          // SHA-256, 64 lower-case hexadecimal digits; empty if the file is a document
	Document json.RawMessage // compact JSON; nil if the file is an object
}

// Files returns the state's files, sorted by path. It fails if the files cannot be written below
// one folder. Each name must be a plain relative path, and a file's name must not also be the name
// of a folder.
//
// The device and the image builder require plain names. The hub does not, because it also serves
// devices with other software, which may have other rules for names. A device that refuses a state
// reports the status WONTGO.
func (s *State) Files() ([]File, error) {
	var documents map[string]json.RawMessage
	if err := json.Unmarshal(s.JSON, &documents); err != nil {
		return nil, fmt.Errorf("the state: %w", err)
	}
	var files []File
	for name, value := range s.members {
		if name == "#spec" {
			continue
		}
		if err := checkPath(name); err != nil {
			return nil, err
		}
		f := File{Path: name}
		if sum, isSum := sumOf(value); isSum {
			f.Object = hex.EncodeToString(sum[:])
		} else {
			f.Document = documents[name]
		}
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	for _, f := range files {
		for i := range len(f.Path) {
			if f.Path[i] == '/' {
				if _, isFile := s.members[f.Path[:i]]; isFile {
					return nil, fmt.Errorf("the state uses the name %q for both a file and a folder", f.Path[:i])
				}
			}
		}
	}
	return files, nil
}

var errPath = errors.New("is not a path inside a revision's folder")

// checkPath refuses a name that is not a plain relative path.
func checkPath(name string) error {
	bad := name == "" || len(name) > maxPath || !utf8.ValidString(name) || strings.Count(name, "/") >= maxParts ||
		strings.ContainsFunc(name, unicode.IsControl)
	for part := range strings.SplitSeq(name, "/") {
		bad = bad || part == "" || part == "." || part == ".." || len(part) > maxName
	}
	if bad {
		return fmt.Errorf("the file name %q in the state %w", clip(name, 100), errPath)
	}
	return nil
}

// ParseMeta reads a revision's meta: any JSON object of at most MaxMeta bytes and
// strictjson.MaxStorableDepth levels. It returns the object in compact form.
func ParseMeta(text []byte) ([]byte, error) {
	if len(text) > MaxMeta {
		return nil, fmt.Errorf("the meta has more than %d bytes", MaxMeta)
	}
	compact, _, err := strictjson.Storable(text)
	if err != nil {
		return nil, fmt.Errorf("the meta: %w", err)
	}
	return compact, nil
}

// clip shortens a text to at most `n` bytes for an error message. It does not split a character.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
