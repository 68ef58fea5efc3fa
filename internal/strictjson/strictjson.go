// Package strictjson reads JSON that means the same to every reader. The hub
// and the device both read states with it, so that what one has checked is
// what the other sees. It is pure.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// maxDepth bounds how deep objects and arrays may be in each other.
const maxDepth = 64

// Object reads one JSON object: UTF-8, no name twice in an object at any
// depth, at most 64 levels, nothing after it, no number that a float64 cannot
// hold. It returns the object without its spaces, and as encoding/json decodes
// it into an any.
func Object(text []byte) (compact []byte, object map[string]any, err error) {
	if !utf8.Valid(text) {
		return nil, nil, errors.New("it is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := namesDiffer(dec, 0); err != nil {
		return nil, nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, errors.New("data follows the JSON value")
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

// namesDiffer reads one value.
func namesDiffer(dec *json.Decoder, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("it is more than %d levels deep", maxDepth)
	}
	t, err := dec.Token()
	if err != nil {
		return err
	}
	switch t {
	case json.Delim('{'):
		names := map[string]bool{}
		for dec.More() {
			name, err := dec.Token()
			if err != nil {
				return err
			}
			if names[name.(string)] {
				return fmt.Errorf("it has the name %q twice in one object", name)
			}
			names[name.(string)] = true
			if err := namesDiffer(dec, depth+1); err != nil {
				return err
			}
		}
		_, err = dec.Token()
	case json.Delim('['):
		for dec.More() {
			if err := namesDiffer(dec, depth+1); err != nil {
				return err
			}
		}
		_, err = dec.Token()
	}
	return err
}
