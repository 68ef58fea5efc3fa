// Package access decides what a person at a machine's console may do. Anyone at the machine's
// screen or serial port can open the console, so the machine's owner can limit its actions, both
// when the image is built and later at the hub.
//
// The package is separate from package console, because the first process of Gangway's images uses
// it too.
package access

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Level is the set of actions that the console offers. A higher level includes the actions of the
// lower levels.
type Level int

// The levels.
const (
	Off  Level = iota // no console
	Read              // shows the machine
	On                // also restarts the machine and changes its network settings
	Full              // also wipes a machine that has an owner
)

// MetaKey is the key of the user-meta with which the owner sets the level.
const MetaKey = "gangway.console"

var names = map[string]Level{"off": Off, "read": Read, "on": On, "full": Full}

func (l Level) String() string {
	for name, level := range names {
		if level == l {
			return name
		}
	}
	return fmt.Sprintf("level %d", int(l))
}

// Parse returns the level with the given name.
func Parse(name string) (Level, error) {
	l, ok := names[name]
	if !ok {
		return Off, fmt.Errorf("the console's level %.20q is unknown; write off, read, on or full", name)
	}
	return l, nil
}

// Ownership describes whether the machine has an owner.
type Ownership int

// The values of Ownership.
const (
	Owned    Ownership = iota // the machine has an owner
	Unowned                   // the machine was never onboarded
	GivenUp                   // the owner has deleted the device
	Doubtful                  // the hub does not accept the device for another reason
)

// Effective returns the level that is in force. It is never higher than `limit`, the image's level.
// `whose` says whether the machine has an owner. `meta` is the owner's setting, or empty if the
// owner has not set a level.
//
//   - If the machine has no owner, the level is Full, because nobody's data needs protection.
//   - Otherwise, if the owner has not set a level, the level is On. With On, the
//     console cannot wipe the machine, so a person at the serial port cannot take the machine from
//     its owner.
//   - If the owner's setting is an unknown word, the level is Read, because the owner wanted a
//     limit.
func Effective(limit Level, whose Ownership, meta string) Level {
	level := On
	switch {
	case whose == Unowned || whose == GivenUp:
		level = Full
	case meta != "":
		var err error
		if level, err = Parse(meta); err != nil {
			level = Read
		}
	}
	return min(limit, level)
}

// maxMeta is the maximum size of the file with the user-meta, in bytes.
const maxMeta = 1 << 20

// Setting returns the level that the owner has set, from a file with the device's user-meta. If the
// file or the key does not exist, Setting returns "". If the file cannot be read, or the value is
// not a string, Setting returns "?".
func Setting(file string) string {
	const unreadable = "?"
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	if err != nil {
		return unreadable
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxMeta))
	var meta map[string]any
	if err != nil || json.Unmarshal(b, &meta) != nil {
		return unreadable
	}
	value, set := meta[MetaKey]
	if !set || value == nil {
		return ""
	}
	text, ok := value.(string)
	if !ok || text == "" {
		return unreadable
	}
	return text
}
