// Package strictjson reads JSON that means the same to every reader. The hub
// and the device both read with it what comes from elsewhere, so that what one
// has checked is what the other sees. It is pure.
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

// maxDepth bounds how deep objects and arrays may be in each other. MaxStorableDepth is
// the bound for what is kept and shown inside other documents, so that whoever
// reads with maxDepth can read those.
const (
	maxDepth         = 64
	MaxStorableDepth = 32
)

// Object reads one JSON object: UTF-8, no name twice in an object at any
// depth, at most 64 levels, nothing after it, no number that a float64 cannot
// hold. It returns the object without its spaces, and as encoding/json decodes
// it into an any.
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
		return nil, nil, errors.New("it is no JSON object")
	}
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		return nil, nil, err
	}
	return b.Bytes(), object, nil
}

// Storable is Object for what is kept and shown inside other documents: at most
// MaxStorableDepth levels.
func Storable(text []byte) (compact []byte, object map[string]any, err error) {
	if compact, object, err = Object(text); err == nil {
		err = CheckStorable(object)
	}
	if err != nil {
		return nil, nil, err
	}
	return compact, object, nil
}

// CheckStorable says whether a value that Decode made may be kept and shown inside
// other documents: at most MaxStorableDepth levels, and no number that a float64 cannot
// hold.
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
			return fmt.Errorf("it has the number %.40s, which most readers cannot hold; send it as a string", v)
		}
	}
	return nil
}

func errTooDeep(levels int) error { return fmt.Errorf("it is more than %d levels deep", levels) }

// Decode reads one JSON value into v, as encoding/json does, if every other
// reader would read the same: with the bounds of Object, no null in the place
// of the whole value, and each field's name as v has it. encoding/json also
// takes names in another case, and the last of two. Names that are unknown to v
// are ignored. A number in an any becomes a json.Number, which is as it was
// written; it may be more than a float64 holds.
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

// DecodeKnown is Decode that refuses names unknown to v.
func DecodeKnown(text []byte, v any) error {
	if err := Decode(text, v); err != nil {
		return err
	}
	dec := decoder(text)
	dec.DisallowUnknownFields()
	return dec.Decode(v)
}

// check reads one value, that is to be decoded into a t; nil: into an any.
func check(text []byte, t reflect.Type) error {
	if !utf8.Valid(text) {
		return errors.New("it is not UTF-8")
	}
	dec := decoder(text)
	if err := namesDiffer(dec, t, 0); errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	} else if err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("data follows the JSON value")
	}
	return nil
}

// namesDiffer reads one value that is to be decoded into a t.
func namesDiffer(dec *json.Decoder, into reflect.Type, depth int) error {
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
				return fmt.Errorf("it has the name %q twice in one object", name)
			}
			names[name] = true
			value, known := fields[name]
			if !known {
				value = values
				for field := range fields {
					if strings.EqualFold(field, name) {
						return fmt.Errorf("the name %q is written %q", name, field)
					}
				}
			}
			if err := namesDiffer(dec, value, depth+1); err != nil {
				return err
			}
		}
		_, err = dec.Token()
	case json.Delim('['):
		into = elementOf(into)
		for dec.More() {
			if err := namesDiffer(dec, into, depth+1); err != nil {
				return err
			}
		}
		_, err = dec.Token()
	}
	return err
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// plain follows pointers; nil for what decodes itself, or is decoded as it
// comes.
func plain(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer && !t.Implements(unmarshaler) {
		t = t.Elem()
	}
	if t == nil || t.Implements(unmarshaler) || reflect.PointerTo(t).Implements(unmarshaler) {
		return nil
	}
	return t
}

// membersOf is what encoding/json decodes an object's members into: a struct's
// fields by their names, or all into one type.
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
