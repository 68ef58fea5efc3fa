package trail

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"gangway/internal/strictjson"
)

// Bounds of the hub's answers to a device. The device refuses larger answers.
const (
	// MaxRecord is the maximum size of the hub's record of an object, in bytes.
	MaxRecord  = 64 << 10
	maxRev     = 1<<31 - 1
	maxMessage = 200     // bytes of a commit message; the device omits the rest
	maxAddress = 4 << 10 // bytes of the last path element of an object's URL
)

// MaxObject is the largest object that a device downloads, in bytes.
const MaxObject = 1 << 40

// Pending is a revision that the device has not yet installed.
type Pending struct {
	Rev     int
	Message string          // commit message, written by the person who posted the revision
	State   json.RawMessage // not yet parsed: see ParseState
}

// ParsePending reads the hub's list of pending revisions and returns the first of them, or nil if
// the list is empty.
func ParsePending(text []byte) (*Pending, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("reading the hub's list of revisions: %w", err)
	}
	if len(list) == 0 {
		return nil, nil
	}
	compact, object, err := strictjson.Object(list[0])
	if err != nil {
		return nil, fmt.Errorf("reading the hub's revision: %w", err)
	}
	rev, ok := object["rev"].(float64)
	if !ok || rev != math.Trunc(rev) || rev < 0 || rev > maxRev {
		return nil, errors.New(`the hub's revision has a "rev" that is not a whole number from 0 to 2147483647`)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(compact, &members); err != nil {
		return nil, fmt.Errorf("reading the hub's revision: %w", err)
	}
	message, _ := object["commit-msg"].(string)
	return &Pending{Rev: int(rev), Message: clip(message, maxMessage), State: members["state"]}, nil
}

// contents is the prefix of the URL paths at which a hub serves objects. After the prefix, a path
// has exactly one element.
const contents = "/local-s3/"

var addressForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9_=-][A-Za-z0-9_.=-]*$`) })

// Record is the hub's record of an object.
type Record struct {
	Size int64  // bytes
	Path string // path of the object's URL on the hub; any client that knows the path can download the object
}

// ParseRecord reads the hub's record of the object with the SHA-256 `sum`. It refuses the record of
// another object, and a URL whose path is not an object's path. It ignores the URL's host, so a hub
// cannot send the device to another host.
func ParseRecord(text []byte, sum string) (Record, error) {
	_, object, err := strictjson.Object(text)
	if err != nil {
		return Record{}, fmt.Errorf("reading the hub's record of object %s: %w", sum, err)
	}
	if named, _ := object["sha256sum"].(string); named != sum {
		return Record{}, fmt.Errorf("the hub's record of object %s names another object, %q", sum, clip(named, 64))
	}
	digits, _ := object["size"].(string)
	size, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || size < 0 || size > MaxObject {
		return Record{}, fmt.Errorf("the hub's record of object %s has the size %q; a number of bytes from 0 to %d is required", sum, clip(digits, 40), int64(MaxObject))
	}
	path, ok := contentPath(object["signed-geturl"])
	if !ok {
		return Record{}, fmt.Errorf("the hub's record of object %s has the URL %q; the URL of object content is required", sum, clip(fmt.Sprint(object["signed-geturl"]), 100))
	}
	return Record{size, path}, nil
}

// ParseUpload reads the hub's answer after the device announced an object. It returns the path to
// which the device uploads the object. The path is the only authorisation that the upload needs.
func ParseUpload(text []byte, sum string) (string, error) {
	_, object, err := strictjson.Object(text)
	if err != nil {
		return "", fmt.Errorf("reading the hub's record of object %s: %w", sum, err)
	}
	path, ok := contentPath(object["signed-puturl"])
	if named, _ := object["sha256sum"].(string); named != sum || !ok {
		return "", fmt.Errorf("the hub's record of object %s has no upload URL", sum)
	}
	return path, nil
}

// contentPath returns the path of an object's URL. It ignores the URL's host, query and all other
// parts. `ok` is false if the path is not an object's path.
func contentPath(address any) (string, bool) {
	text, _ := address.(string)
	_, element, found := strings.Cut(text, contents)
	return contents + element, found && addressForm().MatchString(element) && len(element) <= maxAddress
}
