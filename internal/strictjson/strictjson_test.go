package strictjson

import (
	"strings"
	"testing"
)

// What two readers could take for two things is refused.
func TestObjectRefusesWhatReadersDifferIn(t *testing.T) {
	for _, text := range []string{
		``, `[]`, `null`, `1`, `{} {}`, `{}x`, `{"a":1,"a":2}`, `{"a":{"b":1,"b":1}}`, `{"a":[{"b":1,"\u0062":1}]}`, "{\"\xff\":1}", `{"a":1e999}`, `{"a":01}`, `{"a":}`, `{`,
		`{"a":` + strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1) + `}`,
	} {
		if compact, _, err := Object([]byte(text)); err == nil {
			t.Errorf("%.60s is taken as %.60s", text, compact)
		}
	}
	compact, object, err := Object([]byte(" { \"b\" : [ 1 , {\"a\":\"x y\"} ] , \"a\":null }\n"))
	if err != nil || string(compact) != `{"b":[1,{"a":"x y"}],"a":null}` || len(object) != 2 {
		t.Errorf("%s %v %v", compact, object, err)
	}
}
