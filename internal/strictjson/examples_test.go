package strictjson_test

import (
	"fmt"

	"gangway/internal/strictjson"
)

// Decode refuses text that two JSON parsers could understand differently. It ignores unknown names.
func ExampleDecode() {
	var message struct {
		Name string `json:"name"`
	}
	for _, text := range []string{
		`{"name": "a", "unknown": 1}`,
		`{"Name": "a"}`,
		`{"name": "a", "name": "b"}`,
		`{"name": "a"} {}`,
	} {
		fmt.Println(strictjson.Decode([]byte(text), &message))
	}
	// Output:
	// <nil>
	// the name "Name" must be written "name"
	// the name "name" occurs twice in the same object
	// data follows the JSON value
}

// DecodeKnown also refuses unknown names.
func ExampleDecodeKnown() {
	var message struct {
		Name string `json:"name"`
	}
	fmt.Println(strictjson.DecodeKnown([]byte(`{"name": "a", "unknown": 1}`), &message))
	// Output:
	// json: unknown field "unknown"
}

// Object returns both the compact JSON of an object and the decoded object.
func ExampleObject() {
	compact, object, err := strictjson.Object([]byte(`{ "a": [1, 2] }`))
	fmt.Println(string(compact), object["a"], err)
	// Output:
	// {"a":[1,2]} [1 2] <nil>
}
