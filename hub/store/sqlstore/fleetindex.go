package sqlstore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// When devices change, triggers of the schema update the table device_search and the counters: see
// migrations/0022_fleet.sql and, for the counters, migrations/0050_fewer_changes.sql. SQLite can
// neither split texts into words nor compute hashes, so triggers cannot update the tables
// device_words and device_meta_terms: the functions of this file do. Each method that writes a
// nick, an owner, an enrolment or metadata calls one of these functions. storetest.FleetModel tests
// that the tables agree with the list of all devices.

const (
	// Bounds on what is indexed for a device.
	indexedWords = 8  // largest number of words of a field
	indexedText  = 48 // largest number of bytes of a word and the text after the word
	indexedMeta  = 64 // largest number of members of the user-meta, and of the device-meta
	indexedValue = 256

	// Change indexVersion whenever this package begins to index other words or terms than before.
	// If the index in the database has another version, Open indexes all devices again.
	indexVersion = "1"
	settingIndex = "search-index"
)

var (
	insertWord     = prepared(`INSERT INTO device_words (owner, word, nick) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`)
	deleteWord     = prepared(`DELETE FROM device_words WHERE owner = ? AND word = ? AND nick = ?`)
	insertMetaTerm = prepared(`INSERT INTO device_meta_terms (term, nick) VALUES (?, ?) ON CONFLICT DO NOTHING`)
	deleteMetaTerm = prepared(`DELETE FROM device_meta_terms WHERE term = ? AND nick = ?`)
	selectIndexed  = prepared(`SELECT d.owner, d.nick, s.serial, d.user_meta, d.device_meta
		FROM devices d LEFT JOIN device_search s ON s.owner = d.owner AND s.nick = d.nick WHERE d.id = ?`)
	selectToIndex = prepared(`SELECT s.owner, s.nick, s.serial, d.user_meta, d.device_meta
		FROM device_search s JOIN devices d ON d.id = s.device WHERE (s.owner, s.nick) > (?, ?) ORDER BY s.owner, s.nick LIMIT ?`)
	deleteWords     = prepared(`DELETE FROM device_words`)
	deleteMetaTerms = prepared(`DELETE FROM device_meta_terms`)
)

// words holds the fields of a device from which the table device_words is filled. The table does
// not contain models and makers: the engine searches their words in fleet_counts, which has few
// rows. Nor does it contain ids: the engine searches ids by the primary key of devices.
type words struct{ owner, nick, serial string }

// indexed holds the data from which a device's index entries are computed. A device without an
// owner has no index entries.
type indexed struct {
	words
	userMeta, deviceMeta string
}

func readWords(r *Row) words { return words{r.text(), r.text(), r.text()} }

// indexedOf returns the indexed data of a device. Call it before the device changes.
func indexedOf(c Conn, device string) (is indexed, err error) {
	r, ok, err := c.One(selectIndexed, device)
	if err == nil && ok {
		is = indexed{readWords(&r), r.text(), r.text()}
	}
	return is, err
}

// The method `list` returns the entries for device_words: for each word, the lower-case text from
// the beginning of that word on.
func (w words) list() []string {
	if w.owner == "" {
		return nil
	}
	return appendWords(appendWords(nil, w.nick), w.serial)
}

// appendWords appends, for each word of `field`, the lower-case text from the beginning of that
// word on, unless `list` already contains it.
func appendWords(list []string, field string) []string {
	field = strings.ToLower(field)
	for n, i := range wordStarts(field) {
		if n == indexedWords {
			break
		}
		if word := cut(field[i:], indexedText); !slices.Contains(list, word) {
			list = append(list, word)
		}
	}
	return list
}

// wordStarts returns an iterator over the words of a text. `n` counts the words from 0, and `i` is
// the position of the word's first byte. A word begins at a letter or digit that does not follow
// another letter or digit.
func wordStarts(text string) func(f func(n, i int) bool) {
	return func(f func(n, i int) bool) {
		inside, n := false, 0
		for i, r := range text {
			is := unicode.IsLetter(r) || unicode.IsDigit(r)
			if is && !inside {
				if !f(n, i) {
					return
				}
				n++
			}
			inside = is
		}
	}
}

// cut returns the first `n` bytes of a text. If byte `n` is in the middle of a character, the
// result ends before this character.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}

// moveWords replaces a device's rows in device_words, which were made from `was`, with those made
// from `is`.
func moveWords(c Conn, was, is words) error {
	before, after := was.list(), is.list()
	moved := was.owner != is.owner || was.nick != is.nick
	for _, word := range before {
		if moved || !slices.Contains(after, word) {
			if err := c.Do(deleteWord, was.owner, word, was.nick); err != nil {
				return err
			}
		}
	}
	for _, word := range after {
		if moved || !slices.Contains(before, word) {
			if err := c.Do(insertWord, is.owner, word, is.nick); err != nil {
				return err
			}
		}
	}
	return nil
}

// The method `move` replaces a device's index entries, which were made from `was`, with those made
// from `is`. A zero value stands for no index entries.
func (was indexed) move(c Conn, is indexed) error {
	if err := moveWords(c, was.words, is.words); err != nil {
		return err
	}
	if was.hasTermsOf(is) {
		return nil
	}
	before, after := was.terms(), is.terms()
	moved := was.owner != is.owner || was.nick != is.nick
	for term := range before {
		if moved || !after[term] {
			if err := c.Do(deleteMetaTerm, term, was.nick); err != nil {
				return err
			}
		}
	}
	for term := range after {
		if moved || !before[term] {
			if err := c.Do(insertMetaTerm, term, is.nick); err != nil {
				return err
			}
		}
	}
	return nil
}

// hasTermsOf reports whether it is certain that two states of a device have the same index entries.
// Most metadata that devices report changes only in its numbers, and hasTermsOf costs much less
// than a comparison of the terms.
func (was indexed) hasTermsOf(is indexed) bool {
	return was.owner == is.owner && was.nick == is.nick && was.userMeta == is.userMeta && equalButNumbers(was.deviceMeta, is.deviceMeta)
}

// equalButNumbers reports whether two JSON texts are equal, or differ only in numbers. Numbers of
// device-meta are not in the index; see addTerms.
func equalButNumbers(a, b string) bool {
	i, j, quoted := 0, 0, false
	for i < len(a) && j < len(b) {
		if !quoted && startsNumber(a[i]) && startsNumber(b[j]) {
			i, j = i+numberSize(a[i:]), j+numberSize(b[j:])
			continue
		}
		if a[i] != b[j] {
			return false
		}
		switch {
		case a[i] == '"':
			quoted = !quoted
		case quoted && a[i] == '\\' && i+1 < len(a) && j+1 < len(b): // the next byte may be a quotation mark
			i, j = i+1, j+1
			if a[i] != b[j] {
				return false
			}
		}
		i, j = i+1, j+1
	}
	return i == len(a) && j == len(b)
}

func startsNumber(c byte) bool { return c == '-' || '0' <= c && c <= '9' }

// numberSize returns the length of the number at the beginning of a text.
func numberSize(text string) int {
	return len(text) - len(strings.TrimLeft(text, "0123456789+-.eE"))
}

func (was indexed) terms() map[int64]bool {
	if was.owner == "" || was.userMeta == "{}" && was.deviceMeta == "{}" {
		return nil
	}
	terms := map[int64]bool{}
	addTerms(terms, was.owner, was.userMeta, true)
	addTerms(terms, was.owner, was.deviceMeta, false)
	return terms
}

// metaTerm returns the number that stands for a metadata key and its value in the table
// device_meta_terms. It is taken from a SHA-256 of the owner, the key and the value.
func metaTerm(owner, key, value string) int64 {
	sum := sha256.Sum256([]byte(owner + "\x00" + key + "\x00" + lowerASCII(value)))
	return int64(binary.BigEndian.Uint64(sum[:]))
}

func lowerASCII(text string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, text)
}

// addTerms adds the terms of the metadata `meta`: one term for each member that is a string, a
// boolean or, if `numbers` is true, a number. It adds only the first indexedMeta terms, in the
// order of the JSON text. The key of a member in a nested object is the member's path, joined by
// dots. For device-meta, callers set `numbers` to false: devices report numbers such as free memory
// and uptime, so each report would change the index.
func addTerms(terms map[int64]bool, owner, meta string, numbers bool) {
	if meta == "{}" {
		return
	}
	dec := json.NewDecoder(strings.NewReader(meta))
	dec.UseNumber()
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return
	}
	left := indexedMeta
	addMembers(dec, "", func(key, value string, number bool) bool {
		if (numbers || !number) && len(value) <= indexedValue && len(key) <= indexedValue {
			terms[metaTerm(owner, key, value)] = true
			left--
		}
		return left > 0
	})
}

// addMembers calls the function `add` with each member of a JSON object, until `add` returns false.
// The decoder has already read the "{" of the object. addMembers reports whether it read the whole
// object.
func addMembers(dec *json.Decoder, path string, add func(key, value string, number bool) bool) bool {
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return false
		}
		key, _ := name.(string)
		value, err := dec.Token()
		if err != nil {
			return false
		}
		more := true
		switch v := value.(type) {
		case json.Delim:
			if v == '{' {
				more = addMembers(dec, path+key+".", add)
			} else {
				more = skipList(dec)
			}
		case string:
			more = add(path+key, v, false)
		case json.Number:
			more = add(path+key, v.String(), true)
		case bool:
			text := "false"
			if v {
				text = "true"
			}
			more = add(path+key, text, false)
		}
		if !more {
			return false
		}
	}
	_, err := dec.Token()
	return err == nil
}

// skipList skips a JSON array whose "[" the decoder has already read.
func skipList(dec *json.Decoder) bool {
	for depth := 1; depth > 0; {
		t, err := dec.Token()
		if err != nil {
			return false
		}
		switch t {
		case json.Delim('['), json.Delim('{'):
			depth++
		case json.Delim(']'), json.Delim('}'):
			depth--
		}
	}
	return true
}

// IndexAgain fills device_words and device_meta_terms if they are empty or another version of this
// package filled them. Drivers call it before other methods can run.
func (s *Store) IndexAgain(ctx context.Context) error {
	var version string
	if err := s.db.Read(ctx, func(c Conn) error {
		r, ok, err := c.One(selectSetting, settingIndex)
		if ok {
			version = r.text()
		}
		return err
	}); err != nil || version == indexVersion {
		return err
	}
	if err := s.db.Write(ctx, func(c Conn) error {
		if err := c.Do(deleteWords); err != nil {
			return err
		}
		return c.Do(deleteMetaTerms)
	}); err != nil {
		return err
	}
	for owner, nick := "", ""; ; {
		var list []indexed
		err := s.db.Write(ctx, func(c Conn) error {
			list = nil
			if err := c.Each(selectToIndex, func(r Row) (bool, error) {
				list = append(list, indexed{readWords(&r), r.text(), r.text()})
				return true, nil
			}, owner, nick, int64(1000)); err != nil {
				return err
			}
			for _, one := range list {
				if err := (indexed{}).move(c, one); err != nil {
					return err
				}
			}
			if len(list) < 1000 {
				return c.Do(upsertSetting, settingIndex, indexVersion)
			}
			return nil
		})
		if err != nil || len(list) < 1000 {
			return err
		}
		owner, nick = list[len(list)-1].owner, list[len(list)-1].nick
	}
}
