package strictjson_test

import (
	"testing"

	"gangway/internal/strictjson"
	"gangway/wire"
)

func BenchmarkDecode(b *testing.B) {
	text := []byte(`{"proof":"3q2+7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`)
	for b.Loop() {
		var r wire.ActivationRequest
		if err := strictjson.Decode(text, &r); err != nil {
			b.Fatal(err)
		}
	}
}
