package sqlstore

import (
	"slices"
	"strings"
	"testing"

	"gangway/hub/store"
)

func FuzzLogBatch(f *testing.F) {
	list := []store.LogEntry{{Sec: -1, Nano: 1 << 62, Level: "INFO", Message: "a\x00é"}, {}}
	f.Add(encodeLogs(list))
	f.Add([]byte(`j[1,2,"INFO","s","p","3","m"]`))
	f.Add([]byte("1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		b := logBatch{first: 7, device: "d", owner: "o", data: data}
		got, err := b.entries()
		if err != nil {
			return
		}
		// Decoded entries stay the same when they are encoded and decoded again.
		again := logBatch{first: 7, device: "d", owner: "o", data: encodeLogs(got)}
		if second, err := again.entries(); err != nil || !slices.Equal(got, second) {
			t.Errorf("%+v became %+v, %v", got, second, err)
		}
	})
}

func TestBatchesOfEntries(t *testing.T) {
	t.Parallel()
	list := []store.LogEntry{{Sec: 7, Nano: 8, Level: "INFO", Source: "s", Platform: "p", Rev: "3", Message: "one"}, {Message: strings.Repeat("é", 1000)}, {Sec: -1}}
	b := logBatch{first: 40, device: "d", owner: "o", created: 5, data: encodeLogs(list)}
	for i := range list {
		list[i].Seq, list[i].Device, list[i].Owner, list[i].Created = 40+int64(i), "d", "o", fromMicro(5)
	}
	if got, err := b.entries(); err != nil || !slices.Equal(got, list) {
		t.Errorf("%+v, %v", got, err)
	}
	b = logBatch{first: 40, device: "d", owner: "o", created: 5, data: []byte(`j[7, 8, "INFO", "s", "p", "3", "one"]`)}
	if got, err := b.entries(); err != nil || !slices.Equal(got, list[:1]) {
		t.Errorf("a converted batch: %+v, %v", got, err)
	}
	whole := encodeLogs(list)
	for _, bad := range []string{"", "x", "j", "j[]", `j[7,8,"INFO","s","p","3"]`, `j[7,8,"INFO","s","p","3","one","two"]`, "1", "1garbage", string(whole[:len(whole)-1])} {
		b.data = []byte(bad)
		if got, err := b.entries(); err == nil {
			t.Errorf("%q became %+v", bad, got)
		}
	}
}
