package luks

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
)

// Disk is a partition with LUKS2 headers. WriteAt and Sync must put the data on the disk before
// they return.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// Tokens returns the header's LUKS2 tokens of the type `kind`, in the order of their numbers.
func Tokens(r io.ReaderAt, kind string) (list []json.RawMessage, err error) {
	m, err := readHeader(r)
	if err != nil {
		return nil, err
	}
	for _, n := range slices.SortedFunc(maps.Keys(m.Tokens), byNumber) {
		if kindOf(m.Tokens[n]) == kind {
			list = append(list, m.Tokens[n])
		}
	}
	return list, nil
}

func kindOf(token json.RawMessage) string {
	var head struct{ Type string }
	if json.Unmarshal(token, &head) != nil {
		return ""
	}
	return head.Type
}

func byNumber(a, b string) int {
	x, _ := strconv.Atoi(a)
	y, _ := strconv.Atoi(b)
	return x - y
}

// SetTokens replaces all LUKS2 tokens of the types `kinds` in the header with the LUKS2 tokens
// `list`. The new LUKS2 tokens are for the key slot `slot`. After a power cut, the header has
// either all old or all new LUKS2 tokens. SetTokens does not change any other part of the header,
// even if this package does not know that part.
func SetTokens(d Disk, slot int, kinds []string, list []map[string]any) error {
	b, intact, err := newest(d)
	if err != nil {
		return err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(textOf(b), &all); err != nil {
		return fmt.Errorf("luks: the header's JSON: %w", err)
	}
	text, err := withTokens(all, slot, kinds, list)
	if err != nil {
		return err
	}
	return write(d, b, text, intact)
}

// withTokens returns the header's JSON `all` with other LUKS2 tokens; see SetTokens.
func withTokens(all map[string]json.RawMessage, slot int, kinds []string, list []map[string]any) ([]byte, error) {
	tokens := map[string]json.RawMessage{}
	if err := json.Unmarshal(all["tokens"], &tokens); err != nil {
		return nil, fmt.Errorf("luks: the header's JSON: %w", err)
	}
	maps.DeleteFunc(tokens, func(_ string, t json.RawMessage) bool { return slices.Contains(kinds, kindOf(t)) })
	number := 0
	for _, t := range list {
		t = maps.Clone(t)
		t["keyslots"] = []string{strconv.Itoa(slot)}
		text, err := json.Marshal(t)
		if err != nil {
			return nil, fmt.Errorf("luks: %w", err)
		}
		for tokens[strconv.Itoa(number)] != nil {
			number++
		}
		tokens[strconv.Itoa(number)] = text
	}
	text, err := json.Marshal(tokens)
	if err != nil {
		return nil, fmt.Errorf("luks: %w", err)
	}
	all["tokens"] = text
	if text, err = json.Marshal(all); err != nil {
		return nil, fmt.Errorf("luks: %w", err)
	}
	return text, nil
}

// The function `write` writes both copies of the header. `b` is the present header, and `text` is
// its new JSON. If `intact` says that only one copy is intact, write overwrites that copy last.
func write(d Disk, b, text []byte, intact [2]bool) error {
	if len(text) >= jsonSize {
		return fmt.Errorf("luks: the header's JSON has %d bytes; at most %d fit", len(text), jsonSize-1)
	}
	order := []int{0, 1}
	if intact[0] && !intact[1] {
		order = []int{1, 0}
	}
	next := seqOf(b) + 1
	for _, n := range order {
		one := slices.Clone(b)
		clear(one[binarySize:])
		copy(one[binarySize:], text)
		copy(one, copies[n].magic)
		binary.BigEndian.PutUint64(one[atSeq:], next)
		binary.BigEndian.PutUint64(one[atOffset:], uint64(copies[n].at))
		copy(one[atSalt:atUUID], random(atUUID-atSalt))
		sum := sha256.Sum256(one)
		copy(one[atSum:], sum[:])
		if _, err := d.WriteAt(one, copies[n].at); err != nil {
			return fmt.Errorf("luks: writing the header: %w", err)
		}
		if err := d.Sync(); err != nil {
			return fmt.Errorf("luks: writing the header: %w", err)
		}
	}
	return nil
}
