// Package strictjson parses JSON that every reader understands in the same way. The hub and the
// device both use it for JSON from other programs, so that what one of them has checked is what the
// other reads. It does no I/O and keeps no state.
//
// Decode and DecodeKnown parse into a Go type, Object parses an object of unknown form, and Storable
// parses one that will be stored.
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
	"unicode/utf8"
)

// maxDepth is the largest depth of nested objects and arrays. MaxStorableDepth is the bound for
// values that are stored and later returned inside other documents. It is lower, so that those
// documents stay within maxDepth.
const (
	maxDepth         = 64
	MaxStorableDepth = 32
)

// Object parses one JSON object. The text must be UTF-8, with at most 64 levels and nothing after
// the object. No object may have a name twice, and every number must fit into a float64. It returns
// the object without white space, and as encoding/json decodes it into an any.
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
		return nil, nil, errors.New("it is not a JSON object")
	}
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		return nil, nil, err
	}
	return b.Bytes(), object, nil
}

// Storable is like Object, for an object that is stored and returned inside other documents: it may
// have at most MaxStorableDepth levels.
func Storable(text []byte) (compact []byte, object map[string]any, err error) {
	if compact, object, err = Object(text); err == nil {
		err = CheckStorable(object)
	}
	if err != nil {
		return nil, nil, err
	}
	return compact, object, nil
}

// CheckStorable checks whether a value from Decode may be stored and returned inside other
// documents: it must have at most MaxStorableDepth levels, and every number must fit into a
// float64.
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
			return fmt.Errorf("it has the number %.40s, which is too large for most readers; send it as a string", v)
		}
	}
	return nil
}

func errTooDeep(levels int) error { return fmt.Errorf("it is more than %d levels deep", levels) }

// Decode parses one JSON value into v, like encoding/json, but only if every other reader would
// read the same. It has the bounds of Object. The value must not be null, and field names must be
// spelled exactly as in v: encoding/json also accepts names in another case, and the last of two
// equal names. Unknown names are ignored. A number in an any becomes a json.Number, which preserves
// its text; it may be too large for a float64.
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

// DecodeKnown is like Decode, but refuses names that v does not have.
func DecodeKnown(text []byte, v any) error {
	if err := Decode(text, v); err != nil {
		return err
	}
	dec := decoder(text)
	dec.DisallowUnknownFields()
	return dec.Decode(v)
}

// check checks a text that will be decoded into the type t, or into an any if t is nil.
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

// checkNames checks the names in one value that will be decoded into the type into.
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
		fields, values := membersOf(into)
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
				return fmt.Errorf("it has the name %q twice in the same object", name)
			}
			names[name] = true
			value, known := fields[name]
			if !known {
				value = values
				for field := range fields {
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

// plain returns the type to which the pointers of t lead. It returns nil for a type that decodes
// itself, and for an any.
func plain(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer && !t.Implements(unmarshaler) {
		t = t.Elem()
	}
	if t == nil || t.Implements(unmarshaler) || reflect.PointerTo(t).Implements(unmarshaler) {
		return nil
	}
	return t
}

// membersOf returns the types into which encoding/json decodes an object's members: a struct's
// field types by name, or one type for all members.
func membersOf(t reflect.Type) (fields map[string]reflect.Type, all reflect.Type) {
	t = plain(t)
	switch {
	case t == nil:
		return nil, nil
	case t.Kind() == reflect.Map:
		return nil, t.Elem()
	case t.Kind() != reflect.Struct:
		return nil, nil
	}
	fields = make(map[string]reflect.Type)
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
	return fields, nil
}

func elementOf(t reflect.Type) reflect.Type {
	t = plain(t)
	if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
		return t.Elem()
	}
	return nil
}
