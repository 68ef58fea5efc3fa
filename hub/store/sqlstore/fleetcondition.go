package sqlstore

import (
	"slices"
	"strings"

	"gangway/hub/store"
	"gangway/wire/trail"
)

// condition is one condition of a search: a word, or a field and its value.
type condition struct {
	field store.SearchField // empty for a word
	value string
	term  int64 // the key in the table device_meta_terms; only for FieldMeta

	// `count` is the number of devices that match the condition. If `count` is larger than smallSet
	// and `exact` is false, the real number may be larger than `count`.
	count int
	exact bool

	// `walk` reads the matching devices in the order of nicks. If no index has that order, `walk`
	// is zero.
	walk walk
	// `among` is a statement that takes a list of nicks, and returns the nicks of those devices
	// that match the condition. It reads only an index. If no index serves the condition, `among`
	// is nil.
	among *Statement
	// `fits` reports whether a device matches the condition. It reads only the columns `needs` of the
	// device. It is nil for FieldMeta.
	fits  func(d *found) bool
	needs columns

	models, makers []string // only for a word: the models and makers that contain the word, in lower case
}

// args returns the arguments of the statements in `walk`, except for the place at which the page
// begins and its limit.
func (k *condition) args(owner string) []any {
	switch k.field {
	case store.FieldState:
		return []any{owner}
	case store.FieldMeta:
		return []any{owner, k.term}
	}
	return []any{owner, k.value}
}

// shortArgs returns the arguments of the statements in walk.short, except for the place at which
// the page begins and its limit. They are also the arguments of `among`, except for the list.
func (k *condition) shortArgs(owner string) []any {
	if k.field == store.FieldMeta {
		return []any{k.term}
	}
	return k.args(owner)
}

func termCondition(owner string, t store.SearchTerm) (*condition, error) {
	k := &condition{field: t.Field, value: t.Value}
	switch t.Field {
	case store.FieldState:
		k.value = strings.ToLower(t.Value)
		is, ok := stateFits[k.value]
		if !ok {
			return nil, badSearch("%.64q is not a state of a device: use active, quiet, boot-changed, updating, failed or cloned.", t.Value)
		}
		k.fits, k.needs = is.fits, is.needs
		k.walk, k.among = walkState[k.value], amongState[k.value]
	case store.FieldModel, store.FieldMaker, store.FieldFirmware:
		k.walk, k.among = walkField[t.Field], amongField[t.Field]
		k.needs = fieldColumn[t.Field]
		lower := lowerASCII(k.value)
		k.fits = func(d *found) bool { return lowerASCII(k.of(d)) == lower }
	case store.FieldToken:
		k.value = strings.ToLower(t.Value)
		k.walk, k.among = walkField[t.Field], amongField[t.Field]
		k.needs = colToken
		k.fits = func(d *found) bool { return d.token == k.value }
	case store.FieldSerial:
		if wordText(t.Value) == "" {
			return nil, badSearch("A serial number has at least one letter or digit: write the whole serial number.")
		}
		k.needs = colSerial
		lower := lowerASCII(k.value)
		k.fits = func(d *found) bool { return lowerASCII(d.serial) == lower }
	case store.FieldID:
		k.value = strings.ToLower(t.Value)
		if !isIDPrefix(k.value) {
			return nil, badSearch("%.64q is not the beginning of an id: write the first 4 to 24 hexadecimal digits of the id.", t.Value)
		}
		k.needs = colDevice
		k.fits = func(d *found) bool { return strings.HasPrefix(d.device, k.value) }
	case store.FieldMeta:
		if t.Key == "" || len(t.Key) > indexedValue || len(t.Value) > indexedValue {
			return nil, badSearch("The name and the value of a metadata condition may have at most %d bytes each: shorten them.", indexedValue)
		}
		k.term = metaTerm(owner, t.Key, t.Value)
		k.walk, k.among = walkMeta, amongMeta
	default:
		return nil, badSearch("%.64q is not a field of a device: use state, model, maker, firmware, token, serial, id or meta.", string(t.Field))
	}
	return k, nil
}

func isIDPrefix(text string) bool {
	return len(text) >= 4 && len(text) <= 24 && strings.Trim(text, "0123456789abcdef") == ""
}

// The method `of` returns the device's value for the condition's field.
func (k *condition) of(d *found) string {
	switch k.field {
	case store.FieldModel:
		return d.model
	case store.FieldMaker:
		return d.maker
	}
	return d.firmware
}

var fieldColumn = map[store.SearchField]columns{store.FieldModel: colModel, store.FieldMaker: colMaker, store.FieldFirmware: colFirmware}

var stateFits = map[string]struct {
	needs columns
	fits  func(d *found) bool
}{
	store.StateActive:      {colQuiet, func(d *found) bool { return !d.quiet }},
	store.StateQuiet:       {colQuiet, func(d *found) bool { return d.quiet }},
	store.StateBootChanged: {colBoot, func(d *found) bool { return d.boot == store.BootChanged || d.boot == store.BootRefused }},
	store.StateUpdating:    {colStatus, func(d *found) bool { return d.status != "" && !d.status.Final() }},
	store.StateFailed:      {colStatus, func(d *found) bool { return d.status == trail.StatusError || d.status == trail.StatusWontGo }},
	store.StateCloned:      {colClone, func(d *found) bool { return d.clone != "" }},
}

// wordText returns a word of a search in the form of the index: in lower case, beginning at its
// first letter or digit.
func wordText(word string) string {
	word = strings.ToLower(word)
	for _, i := range wordStarts(word) {
		return word[i:]
	}
	return ""
}

func wordCondition(word string) (*condition, error) {
	text := wordText(word)
	switch {
	case text == "":
		return nil, badSearch("%.64q has no letter or digit: leave the word out.", word)
	case len(word) > indexedValue:
		return nil, badSearch("A word of a search may have at most %d bytes: shorten the word.", indexedValue)
	}
	k := &condition{value: text, needs: colNick | colDevice | colSerial | colModel | colMaker}
	// `known` caches, for each model and maker, whether it contains the word. Most devices have one
	// of a few models and makers, so few comparisons are needed.
	known := map[string]bool{}
	common := func(value string) bool {
		is, ok := known[value]
		if !ok {
			is = hasWord(value, text)
			known[value] = is
		}
		return is
	}
	k.fits = func(d *found) bool {
		return common(d.model) || common(d.maker) || hasWord(d.nick, text) || hasWord(d.serial, text) ||
			len(text) >= 4 && strings.HasPrefix(d.device, text)
	}
	return k, nil
}

// hasWord reports whether `prefix` occurs in `field` at the beginning of a word. `prefix` may
// extend beyond this word.
func hasWord(field, prefix string) bool {
	field = strings.ToLower(field)
	for n, i := range wordStarts(field) {
		if n == indexedWords {
			break
		}
		if strings.HasPrefix(field[i:], prefix) {
			return true
		}
	}
	return false
}

var (
	selectCount = both(`SELECT n FROM fleet_counts WHERE owner = ? AND field = ? AND value = ?`,
		`SELECT n FROM fleet_counts WHERE owner = ? AND field = ? AND lower(value) = lower(? COLLATE "C")`)
	// Selects the values of a field, roughly the most frequent values first: they are in the order
	// of `size`, the number of binary digits of `n`. The LIMIT is necessary, because a fleet may
	// have as many models as devices.
	selectValues = prepared(`SELECT value, n FROM fleet_counts INDEXED BY fleet_counts_size
		WHERE owner = ? AND field = ? ORDER BY size DESC LIMIT ?`)
)

// valuesWithWords is the largest number of models, and of makers, with which a search compares a
// word.
const valuesWithWords = 500

func counted(c Conn, owner, field, value string) (n int, err error) {
	r, ok, err := c.One(selectCount, owner, field, value)
	if ok {
		n = r.int()
	}
	return n, err
}

// resolve sets the fields `count` and `exact` and, for a word, `models` and `makers`, from the
// counters and indexes of the database.
func (k *condition) resolve(c Conn, owner string, values *commonValues) (err error) {
	switch k.field {
	case store.FieldState:
		k.exact = true
		if k.value != store.StateActive {
			k.count, err = counted(c, owner, "state", k.value)
			return err
		}
		total, err := counted(c, owner, "total", "")
		if err != nil {
			return err
		}
		quiet, err := counted(c, owner, "state", store.StateQuiet)
		k.count = total - quiet
		return err
	case store.FieldModel, store.FieldMaker, store.FieldFirmware, store.FieldToken:
		k.exact = true
		k.count, err = counted(c, owner, string(k.field), k.value)
		return err
	case store.FieldMeta:
		r, _, err := c.One(countMetaTerm, k.term, int64(smallSet+1))
		if err == nil {
			k.count = r.int()
		}
		return err
	case store.FieldSerial:
		k.count, err = k.countNicks(c, owner)
		return err
	case store.FieldID:
		k.count, err = k.countIDs(c, owner)
		return err
	}
	return k.resolveWord(c, owner, values)
}

func (k *condition) resolveWord(c Conn, owner string, values *commonValues) (err error) {
	if k.count, err = k.countNicks(c, owner); err != nil {
		return err
	}
	if isIDPrefix(k.value) {
		n, err := k.countIDs(c, owner)
		if err != nil {
			return err
		}
		k.count += n
	}
	if err := values.read(c, owner); err != nil {
		return err
	}
	with := func(all []store.FacetCount) (list []string) {
		for _, one := range all {
			if hasWord(one.Value, k.value) {
				list = append(list, lowerASCII(one.Value))
				k.count += one.N
			}
		}
		return list
	}
	k.models, k.makers = with(values.models), with(values.makers)
	return nil
}

// commonValues holds an owner's most frequent models and makers, each with the number of devices
// that have it. All words of a search share one commonValues.
type commonValues struct {
	known          bool
	models, makers []store.FacetCount
}

func (v *commonValues) read(c Conn, owner string) error {
	if v.known {
		return nil
	}
	for field, list := range map[string]*[]store.FacetCount{"model": &v.models, "maker": &v.makers} {
		if err := c.Each(selectValues, func(r Row) (bool, error) {
			*list = append(*list, store.FacetCount{Value: r.text(), N: r.int()})
			return true, nil
		}, owner, field, int64(valuesWithWords)); err != nil {
			return err
		}
	}
	v.known = true
	return nil
}

// words returns the arguments, except for the limit, with which selectWord and selectFound read the
// words that begin with the condition's word. For FieldSerial, such a word may also come from the
// nick of a device or from a longer serial number, so the caller must compare the serial numbers.
func (k *condition) words(owner string) []any {
	from := cut(wordText(k.value), indexedText)
	to := from + "\U0010ffff"
	if k.field == store.FieldSerial && len(wordText(k.value)) <= indexedText {
		to = from + "\x00" // only the whole word
	}
	return []any{owner, from, to}
}

// countNicks returns how many words in nicks and serial numbers begin with the condition's word, or
// smallSet+1 if there are more than smallSet. A device with two such words counts twice.
func (k *condition) countNicks(c Conn, owner string) (n int, err error) {
	r, _, err := c.One(countWord, append(k.words(owner), int64(smallSet+1))...)
	if err == nil {
		n = r.int()
	}
	return n, err
}

// countIDs returns the number of devices whose id begins with the condition's value, or smallSet+1
// if there are more than smallSet.
func (k *condition) countIDs(c Conn, owner string) (n int, err error) {
	err = c.EachColumns(selectByID, func(Columns) (bool, error) {
		n++
		return true, nil
	}, k.byID(owner)...)
	return n, err
}

// byID returns the arguments with which selectByID reads the devices whose id begins with the
// condition's value.
func (k *condition) byID(owner string) []any {
	return []any{k.value, k.value + "g", owner, int64(smallSet + 1)}
}

// The method `all` reads the devices that match k, and returns those that match all the conditions
// in `also`, except that it ignores conditions on metadata. `also` must contain k itself, because
// the statements also read some devices that do not match k. Call `all` only if `count` is at most
// smallSet.
func (k *condition) all(c Conn, owner string, also []*condition) (devices []found, err error) {
	switch k.field {
	case store.FieldID:
		return appendFound(c, nil, also, selectByID, k.byID(owner)...)
	case store.FieldSerial, "":
	default:
		return appendFound(c, nil, also, k.walk.up, append(k.args(owner), "", int64(smallSet+1))...)
	}
	if devices, err = appendFound(c, nil, also, selectFound, append(k.words(owner), int64(smallSet+1), owner)...); err != nil {
		return nil, err
	}
	if k.field == "" && isIDPrefix(k.value) {
		if devices, err = appendFound(c, devices, also, selectByID, k.byID(owner)...); err != nil {
			return nil, err
		}
	}
	for field, values := range map[store.SearchField][]string{store.FieldModel: k.models, store.FieldMaker: k.makers} {
		if len(values) == 0 {
			continue
		}
		if devices, err = appendFound(c, devices, also, fieldIn[field], owner, values, int64(smallSet+1)); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(devices, func(a, b found) int { return strings.Compare(a.nick, b.nick) })
	return slices.CompactFunc(devices, func(a, b found) bool { return a.nick == b.nick }), nil
}
