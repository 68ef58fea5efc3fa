// Package strictjson parses JSON and refuses text that two parsers could understand differently.
// The hub and the device both use it for JSON from other programs, so the device reads exactly the
// values that the hub checked. The package does no I/O, and keeps no state except a cache.
//
// Decode and DecodeKnown parse into a Go type, Object parses an object of unknown form, and
// Storable parses an object that will be stored.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// maxDepth is the largest depth of nested objects and arrays. MaxStorableDepth is the largest depth
// of a value that is stored and later returned inside another document. MaxStorableDepth is lower,
// so that the outer document stays within maxDepth.
const (
	maxDepth         = 64
	MaxStorableDepth = 32
)

// Object parses one JSON object. The text must be UTF-8, with at most 64 levels and nothing after
// the object. No object may have the same name twice, and every number must fit into a float64.
// Object returns the text without white space, and the object as encoding/json decodes it into a
// value of type `any`.
func Object(text []byte) (compact []byte, object map[string]any, err error) {
	if err := check(text, nil); err != nil {
		return nil, nil, err
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return nil, nil, err
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, nil, errors.New("the text is not a JSON object")
	}
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		return nil, nil, err
	}
	return b.Bytes(), object, nil
}

// Storable does the same as Object, for an object that is stored and later returned inside other
// documents: it may have at most MaxStorableDepth levels.
func Storable(text []byte) (compact []byte, object map[string]any, err error) {
	if compact, object, err = Object(text); err == nil {
		err = CheckStorable(object)
	}
	if err != nil {
		return nil, nil, err
	}
	return compact, object, nil
}

// CheckStorable checks whether a value that Decode returned may be stored and later returned inside
// other documents. The value must have at most MaxStorableDepth levels, and every number must fit
// into a float64.
func CheckStorable(v any) error { return keepable(v, 0) }

func keepable(v any, depth int) error {
	switch v := v.(type) {
	case map[string]any:
		if depth == MaxStorableDepth {
			return errTooDeep(MaxStorableDepth)
		}
		for _, member := range v {
			if err := keepable(member, depth+1); err != nil {
				return err
			}
		}
	case []any:
		if depth == MaxStorableDepth {
			return errTooDeep(MaxStorableDepth)
		}
		for _, element := range v {
			if err := keepable(element, depth+1); err != nil {
				return err
			}
		}
	case json.Number:
		if _, err := strconv.ParseFloat(string(v), 64); err != nil {
			return fmt.Errorf("the number %.40s is too large for most JSON parsers: send it as a string", v)
		}
	}
	return nil
}

func errTooDeep(levels int) error { return fmt.Errorf("the JSON has more than %d levels", levels) }

// Decode parses one JSON value into the variable `v`, as encoding/json does, but refuses text that
// another parser could understand differently. The text must be UTF-8, with at most 64 levels and
// nothing after the value. The value must not be null. A field name must have the same spelling as
// in the type of `v`, and must not occur twice. (encoding/json also accepts a name in another case,
// and uses the last of two equal names.) Decode ignores unknown names. In a value of type `any`, a
// number becomes a json.Number, which keeps the number's text and may be too large for a float64.
func Decode(text []byte, v any) error {
	if err := check(text, reflect.TypeOf(v)); err != nil {
		return err
	}
	if bytes.Equal(bytes.TrimSpace(text), []byte("null")) {
		return errors.New("it is null")
	}
	return decoder(text).Decode(v)
}

func decoder(text []byte) *json.Decoder {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	return dec
}

// DecodeKnown does the same as Decode, but refuses names that the type of `v` does not have.
func DecodeKnown(text []byte, v any) error {
	if err := Decode(text, v); err != nil {
		return err
	}
	dec := decoder(text)
	dec.DisallowUnknownFields()
	return dec.Decode(v)
}

// check checks the text `text` before it is decoded into the type `t`. `t` is nil if the text is
// decoded into a value of type `any`.
func check(text []byte, t reflect.Type) error {
	if !utf8.Valid(text) {
		return errors.New("it is not UTF-8")
	}
	dec := decoder(text)
	if err := checkNames(dec, t, 0); errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	} else if err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("data follows the JSON value")
	}
	return nil
}

// checkNames checks the names in the next value of the decoder `dec`. The value will be decoded
// into the type `into`.
func checkNames(dec *json.Decoder, into reflect.Type, depth int) error {
	if depth > maxDepth {
		return errTooDeep(maxDepth)
	}
	t, err := dec.Token()
	if err != nil {
		return err
	}
	switch t {
	case json.Delim('{'):
		m := membersOf(into)
		names := map[string]bool{}
		for dec.More() {
			token, err := dec.Token()
			if err != nil {
				return err
			}
			name, ok := token.(string)
			if !ok {
				return errors.New("a name is not a string")
			}
			if names[name] {
				return fmt.Errorf("the name %q occurs twice in the same object", name)
			}
			names[name] = true
			value, known := m.fields[name]
			if !known {
				value = m.all
				for field := range m.fields {
					if strings.EqualFold(field, name) {
						return fmt.Errorf("the name %q must be written %q", name, field)
					}
				}
			}
			if err := checkNames(dec, value, depth+1); err != nil {
				return err
			}
		}
		_, err = dec.Token()
	case json.Delim('['):
		into = elementOf(into)
		for dec.More() {
			if err := checkNames(dec, into, depth+1); err != nil {
				return err
			}
		}
		_, err = dec.Token()
	}
	return err
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// The function `plain` returns the type that the pointer type `t` points to, or `t` itself. It
// returns nil for a type with its own JSON decoding, and for the type `any`.
func plain(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer && !t.Implements(unmarshaler) {
		t = t.Elem()
	}
	if t == nil || t.Implements(unmarshaler) || reflect.PointerTo(t).Implements(unmarshaler) {
		return nil
	}
	return t
}

// members describes the members of an object that is decoded into a type: for a struct, the type of
// each field by name; for a map, one type for all members.
type members struct {
	fields map[string]reflect.Type
	all    reflect.Type
}

// cached has the members of the types that were used before, because reflection is slow. The program
// has only few types, so this cache stays small.
var cached sync.Map // reflect.Type to *members

// membersOf returns the types into which encoding/json decodes the members of an object.
func membersOf(t reflect.Type) *members {
	if t = plain(t); t == nil {
		return &members{}
	}
	if m, ok := cached.Load(t); ok {
		return m.(*members)
	}
	m := &members{}
	switch t.Kind() {
	case reflect.Map:
		m.all = t.Elem()
	case reflect.Struct:
		m.fields = fieldsOf(t)
	}
	cached.Store(t, m)
	return m
}

func fieldsOf(t reflect.Type) map[string]reflect.Type {
	fields := make(map[string]reflect.Type)
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		embedded := f.Anonymous && name == "" && (f.Type.Kind() == reflect.Struct || f.Type.Kind() == reflect.Pointer)
		if !f.IsExported() || embedded || f.Tag.Get("json") == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		fields[name] = f.Type
	}
	return fields
}

func elementOf(t reflect.Type) reflect.Type {
	t = plain(t)
	if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
		return t.Elem()
	}
	return nil
}
