package eventlog_test

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"testing"

	"gangway/internal/eventlog"
	"gangway/tcg"
	log "gangway/tcg/eventlog"
)

// The function `header` makes the header of a partition table whose entries have `size` bytes.
func header(size uint32) []byte {
	h := make([]byte, 512)
	copy(h, "EFI PART")
	binary.LittleEndian.PutUint32(h[84:], size)
	return h
}

// The function `entry` makes an entry with this type, whose partition has the sectors `first` to
// `last`.
func entry(kind []byte, first, last uint64) []byte {
	e := make([]byte, 128)
	copy(e, kind)
	copy(e[16:], "a partition GUID")
	binary.LittleEndian.PutUint64(e[32:], first)
	binary.LittleEndian.PutUint64(e[40:], last)
	return e
}

var esp = []byte{0x28, 0x73, 0x2A, 0xC1, 0x1F, 0xF8, 0xD2, 0x11, 0xBA, 0x4B, 0x00, 0xA0, 0xC9, 0x3E, 0xC9, 0x3B}

func TestPartitionsHaveOnlyTheUsedEntries(t *testing.T) {
	t.Parallel()
	one, two, unused := entry(esp, 2048, 4095), entry([]byte{1}, 4096, 8191), entry(nil, 1, 2)
	got, err := log.Partitions(header(128), bytes.Join([][]byte{one, unused, two, unused[:100]}, nil))
	want := bytes.Join([][]byte{header(128)[:92], {2, 0, 0, 0, 0, 0, 0, 0}, one, two}, nil)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v:\n%x\n%x", err, got, want)
	}
	guid, start, size, ok := log.FirstESP(got)
	if !ok || string(guid[:]) != "a partition GUID" || start != 2048 || size != 2048 {
		t.Errorf("%s %d %d %v", guid, start, size, ok)
	}
	for _, bad := range [][]byte{nil, header(128)[:91], header(127), header(1 << 31), make([]byte, 512)} {
		if _, err := log.Partitions(bad, one); err == nil {
			t.Errorf("a header of %d bytes: %x", len(bad), bad)
		}
	}
}

func TestRejectsDataThatIsNoPartitionTable(t *testing.T) {
	t.Parallel()
	good, err := log.Partitions(header(128), entry(esp, 1, 2))
	if err != nil || log.CheckPartitions(good) != nil {
		t.Fatal(err)
	}
	changed := func(at int, b ...byte) []byte {
		c := bytes.Clone(good)
		copy(c[at:], b)
		return c
	}
	for name, data := range map[string][]byte{
		"nothing": nil, "short": good[:len(good)-1], "long": append(bytes.Clone(good), 0), "only the header": good[:100],
		"another magic": changed(0, 'e'), "no partitions": changed(92, 0), "too many": changed(92, 2), "a count that overflows": changed(92, 0, 0, 0, 0, 0, 0, 0, 2),
		"small entries": changed(84, 64), "entries without size": changed(84, 0, 0, 0, 0),
	} {
		if log.CheckPartitions(data) == nil {
			t.Errorf("%s: %x", name, data)
		}
		if _, _, _, ok := log.FirstESP(data); ok {
			t.Errorf("%s has an EFI system partition", name)
		}
	}
	for name, e := range map[string][]byte{"another type": entry([]byte{1}, 1, 2), "an end before the start": entry(esp, 2, 1), "the largest size": entry(esp, 0, 1<<64-1)} {
		table, err := log.Partitions(header(128), e)
		if _, _, _, ok := log.FirstESP(table); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
}

// Encode writes the events of a log as a new log, for one bank. Read must return the same events of
// this bank from both logs.
func TestEncodedLogHasTheSameEvents(t *testing.T) {
	t.Parallel()
	boot := eventlog.Boot(true, "kernel", "quiet")
	l := log.Read(boot.Bytes(), tcg.AlgSHA256)
	events := append(l.Events, log.Event{PCR: 4, Data: []byte("an event of another bank")})
	again := log.Read(log.Encode(events, tcg.AlgSHA256, crypto.SHA256), tcg.AlgSHA256)
	if again.State != log.Whole || len(again.Events) != len(boot) {
		t.Fatalf("%s, %d events: %s", again.State, len(again.Events), again.Problem)
	}
	for pcr, value := range boot.PCRs()[:8] {
		if !again.Explains(pcr, value, crypto.SHA256) {
			t.Errorf("PCR %d is not explained", pcr)
		}
	}
}

func FuzzPartitions(f *testing.F) {
	good, err := log.Partitions(header(128), entry(esp, 1, 2))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, good)
	f.Fuzz(func(t *testing.T, head, entries []byte) {
		_, _, _, _ = log.FirstESP(head)
		table, err := log.Partitions(head, entries)
		if err == nil && len(table) > len(head)+8+len(entries) {
			t.Errorf("%d bytes", len(table))
		}
	})
}
