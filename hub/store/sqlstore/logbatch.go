package sqlstore

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"gangway/hub/store"

	"github.com/klauspost/compress/zstd"
)

// The entries of one call of AppendLogs are stored in one row, as a batch. They have the same time
// and consecutive numbers, so the batches of an owner do not overlap, and have the same order as
// their entries. The first byte of a batch's data says how the rest is encoded.
const (
	// plainBatch is a JSON array with the fields of the batch's only entry. The migration that
	// introduced batches made one such batch from each older entry.
	plainBatch = 'j'
	// zstdBatch is a Zstandard frame, with logWords as its dictionary. For each entry, it contains
	// two numbers (varints) and five texts (each with its length as a uvarint).
	zstdBatch = '1'
)

// logWords is the dictionary of zstdBatch. Small batches need the dictionary, because they contain
// few repetitions. Never change it, because stored batches cannot be read without it. The most
// frequent texts are at the end.
const logWords = "connection certificate interface partition error: failed timeout request response received sending device container " +
	"network storage updater controller metadata bootloader mount umount revision signature volume ph_logger pvcontrol " +
	"systemd[1]: kernel: usb eth0 wlan0 tls: http:// https:// 127.0.0.1 bytes, status 200 OK state: STATE_ " +
	"FATAL ERROR WARN DEBUG INFO /storage/logs/ /lxc/lxc.log /lxc/console.log pantavisor.log /pantavisor.log pantavisor "

// maxBatch bounds the size of a decoded batch, in bytes. A request with log lines is much smaller.
const maxBatch = 64 << 20

// The encoder and the decoder of batches. They are safe for concurrent use.
var (
	logEncoder = newLogEncoder()
	logDecoder = newLogDecoder()
)

func newLogEncoder() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderDictRaw(1, []byte(logWords)), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(128<<10), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // not possible: the options are valid
	}
	return e
}

func newLogDecoder() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderDictRaw(1, []byte(logWords)), zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxBatch), zstd.WithDecoderLowmem(true))
	if err != nil {
		panic(err) // not possible: the options are valid
	}
	return d
}

// logBatch is a row of the table log_batches.
type logBatch struct {
	first         int64 // LogEntry.Seq of the first entry
	device, owner string
	created       int64
	data          []byte
}

func encodeLogs(list []store.LogEntry) []byte {
	var b []byte
	for _, e := range list {
		b = binary.AppendVarint(b, e.Sec)
		b = binary.AppendVarint(b, e.Nano)
		for _, text := range []string{e.Level, e.Source, e.Platform, e.Rev, e.Message} {
			b = append(binary.AppendUvarint(b, uint64(len(text))), text...)
		}
	}
	return logEncoder.EncodeAll(b, []byte{zstdBatch})
}

var errBadBatch = errors.New("a batch of log entries is damaged")

// entries decodes the entries of a batch, in their order.
func (l *logBatch) entries() (list []store.LogEntry, err error) {
	if len(l.data) == 0 {
		return nil, errBadBatch
	}
	switch l.data[0] {
	case plainBatch:
		list, err = decodePlain(l.data[1:])
	case zstdBatch:
		var b []byte
		if b, err = logDecoder.DecodeAll(l.data[1:], nil); err == nil {
			list, err = decodeFields(string(b))
		}
	default:
		err = errBadBatch
	}
	if err == nil && len(list) == 0 {
		err = errBadBatch
	}
	if err != nil {
		return nil, fmt.Errorf("log entries of device %s from number %d: %w", l.device, l.first, err)
	}
	for i := range list {
		e := &list[i]
		e.Seq, e.Device, e.Owner, e.Created = l.first+int64(i), l.device, l.owner, fromMicro(l.created)
	}
	return list, nil
}

func decodePlain(data []byte) ([]store.LogEntry, error) {
	var e store.LogEntry
	fields := []any{&e.Sec, &e.Nano, &e.Level, &e.Source, &e.Platform, &e.Rev, &e.Message}
	if err := json.Unmarshal(data, &fields); err != nil || len(fields) != 7 {
		return nil, errBadBatch
	}
	return []store.LogEntry{e}, nil
}

// decodeFields decodes the fields of entries. The texts of the entries share the memory of `b`.
func decodeFields(b string) (list []store.LogEntry, err error) {
	number := func() int64 {
		// A number has at most 10 bytes.
		n, size := binary.Varint([]byte(b[:min(len(b), binary.MaxVarintLen64)]))
		if size <= 0 {
			b, err = "", errBadBatch
			return 0
		}
		b = b[size:]
		return n
	}
	text := func() string {
		n, size := binary.Uvarint([]byte(b[:min(len(b), binary.MaxVarintLen64)]))
		if size <= 0 || n > uint64(len(b)-size) {
			b, err = "", errBadBatch
			return ""
		}
		t := b[size : size+int(n)]
		b = b[size+int(n):]
		return t
	}
	for len(b) > 0 {
		list = append(list, store.LogEntry{Sec: number(), Nano: number(), Level: text(), Source: text(), Platform: text(), Rev: text(), Message: text()})
	}
	return list, err
}

// containsFold reports whether a text contains `lower`, ignoring the case of ASCII letters. The
// ASCII letters of `lower` must be lower case.
func containsFold(text, lower string) bool {
	if lower == "" {
		return true
	}
	return strings.Contains(asciiLower(text), lower)
}

// asciiLower returns a text with lower-case ASCII letters.
func asciiLower(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, text)
}
