package trail

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"gangway/internal/strictjson"
)

// Bounds of what a hub may send. A state's are the hub's own; what is more is
// not of this protocol.
const (
	maxState   = 1 << 20 // bytes
	maxPending = 2 << 20 // bytes: a state, its progress, its meta
	maxRecord  = 64 << 10
	maxPath    = 1024      // bytes of a file's name with its folders
	maxName    = 255       // bytes of one part of it
	maxParts   = 32        // folders above each other
	maxObject  = 1 << 40   // bytes
	maxTotal   = 1 << 42   // bytes of all objects of a state
	maxRev     = 1<<31 - 1 // of a step
)

// specs are the formats of a state, its "#spec".
var specs = []string{"pantavisor-service-system@1", "pantavisor-multi-platform@1", "pantavisor-service-embed@1"}

// file is one file of a state: an object, or a document that is in the state.
type file struct {
	path string // relative, slashes; checked
	sum  string // SHA-256 of the object, 64 lower-case hexadecimal digits; or empty
	json []byte // the document, where sum is empty
}

// state is a state that is safe to lay out as a folder.
type state struct {
	text  []byte // compact JSON
	sum   string // SHA-256 of text, hexadecimal
	files []file // sorted by path
}

// parseState reads a state. Each name but "#spec" becomes a file's path, so it
// must be one that stays inside the folder it is put into and that no other
// name is a folder of.
func parseState(text []byte) (*state, error) {
	if len(text) > maxState {
		return nil, fmt.Errorf("the state has more than %d bytes", maxState)
	}
	compact, object, err := strictjson.Object(text)
	if err != nil {
		return nil, fmt.Errorf("the state: %w", err)
	}
	if spec, _ := object["#spec"].(string); !slices.Contains(specs, spec) {
		return nil, fmt.Errorf(`the state's "#spec" is none of %s`, strings.Join(specs, ", "))
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(compact, &raw); err != nil {
		return nil, fmt.Errorf("the state: %w", err)
	}
	hash := sha256.Sum256(compact)
	s := &state{text: compact, sum: hex.EncodeToString(hash[:])}
	for name, value := range object {
		if name == "#spec" {
			continue
		}
		if err := checkPath(name); err != nil {
			return nil, err
		}
		f := file{path: name}
		if text, ok := value.(string); ok && isSum(text) {
			f.sum = text
		} else if strings.HasSuffix(name, ".json") {
			f.json = raw[name]
		} else {
			return nil, fmt.Errorf("the state's %q is not the SHA-256 of an object", name)
		}
		s.files = append(s.files, f)
	}
	slices.SortFunc(s.files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	for _, f := range s.files {
		for i := range len(f.path) {
			if f.path[i] == '/' {
				if _, is := object[f.path[:i]]; is {
					return nil, fmt.Errorf("the state's %q would be a file and a folder", f.path[:i])
				}
			}
		}
	}
	return s, nil
}

var errPath = errors.New("is no path of a file inside a revision's folder")

// checkPath lets a name pass that is a plain relative path.
func checkPath(name string) error {
	bad := name == "" || len(name) > maxPath || !utf8.ValidString(name) || strings.Count(name, "/") >= maxParts ||
		strings.ContainsFunc(name, unicode.IsControl)
	for part := range strings.SplitSeq(name, "/") {
		bad = bad || part == "" || part == "." || part == ".." || len(part) > maxName
	}
	if bad {
		return fmt.Errorf("the state's name %q %w", clip(name, 100), errPath)
	}
	return nil
}

func isSum(text string) bool {
	if len(text) != 2*sha256.Size || strings.ToLower(text) != text {
		return false
	}
	_, err := hex.DecodeString(text)
	return err == nil
}

// sums are the objects of a state, each once, sorted.
func (s *state) sums() []string {
	var list []string
	for _, f := range s.files {
		if f.sum != "" {
			list = append(list, f.sum)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// clip bounds a text to n bytes, whole runes.
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

// step is what the hub offers.
type step struct {
	rev     int
	message string // of who posted it
	state   json.RawMessage
}

// parsePending reads the hub's list of steps that wait and returns the first,
// or nil.
func parsePending(text []byte) (*step, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("the hub's steps cannot be read: %w", err)
	}
	if len(list) == 0 {
		return nil, nil
	}
	compact, object, err := strictjson.Object(list[0])
	if err != nil {
		return nil, fmt.Errorf("the hub's step cannot be read: %w", err)
	}
	rev, ok := object["rev"].(float64)
	if !ok || rev != math.Trunc(rev) || rev < 0 || rev > maxRev {
		return nil, errors.New("the hub's step has no number that is one")
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(compact, &raw); err != nil {
		return nil, fmt.Errorf("the hub's step cannot be read: %w", err)
	}
	message, _ := object["commit-msg"].(string)
	return &step{rev: int(rev), message: clip(message, 200), state: raw["state"]}, nil
}

// Where a hub has contents: one path element below this one.
const (
	blobs      = "/local-s3/"
	maxAddress = 4 << 10 // bytes of that element
)

var tokenForm = regexp.MustCompile(`^[A-Za-z0-9_=-][A-Za-z0-9_.=-]*$`)

// record is what the hub says of an object.
type record struct {
	size int64
	path string // of the hub, where its content is; the path is the permission
}

// parseRecord reads an object's record. What it names must be the object that
// was asked for, and its content on the hub itself: the host in the address is
// not looked at, so no hub can send a device to another.
func parseRecord(text []byte, sum string) (record, error) {
	_, object, err := strictjson.Object(text)
	if err != nil {
		return record{}, fmt.Errorf("the hub's record of object %s cannot be read: %w", sum, err)
	}
	if named, _ := object["sha256sum"].(string); named != sum {
		return record{}, fmt.Errorf("the hub answers with another object's record than %s", sum)
	}
	digits, _ := object["size"].(string)
	size, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || size < 0 || size > maxObject {
		return record{}, fmt.Errorf("the hub says of object %s that it has %q bytes", sum, clip(digits, 40))
	}
	path, ok := blobPath(object["signed-geturl"])
	if !ok {
		return record{}, fmt.Errorf("the hub says of object %s that its content is at %q, which is no address of one", sum, clip(fmt.Sprint(object["signed-geturl"]), 100))
	}
	return record{size, path}, nil
}

// parseUpload reads the answer to an object's announcement: the path to put it
// to.
func parseUpload(text []byte, sum string) (string, error) {
	_, object, err := strictjson.Object(text)
	if err != nil {
		return "", fmt.Errorf("the hub's record of object %s cannot be read: %w", sum, err)
	}
	path, ok := blobPath(object["signed-puturl"])
	if named, _ := object["sha256sum"].(string); named != sum || !ok {
		return "", fmt.Errorf("the hub gives no address to put object %s to", sum)
	}
	return path, nil
}

// blobPath is the path of an object's address; the rest of it does not count.
func blobPath(address any) (string, bool) {
	text, _ := address.(string)
	_, token, found := strings.Cut(text, blobs)
	return blobs + token, found && tokenForm.MatchString(token) && len(token) <= maxAddress
}

// CheckState reads a state as a device does, and returns it without its spaces
// and the SHA-256 of the objects that it names, each once, sorted. What it lets
// pass, a device lays out.
func CheckState(text []byte) (compact []byte, sums []string, err error) {
	s, err := parseState(text)
	if err != nil {
		return nil, nil, err
	}
	return s.text, s.sums(), nil
}
