package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"gangway/tcg"
)

// Bounds of what a log's header may say, so that reading a log costs little
// whatever is in it.
const (
	maxAlgs   = 8
	maxHeader = 1024 // bytes of the first event's data
	maxDigest = 64   // bytes
)

const (
	evNoAction = 3
	noPCR      = 0xFFFFFFFF // some informative events name no PCR
)

var (
	errLogShort  = errors.New("it ends within an event")
	errLogHeader = errors.New("it does not begin as a crypto agile log does")
)

// scan walks a crypto agile event log (TCG PC Client Platform Firmware Profile,
// 10.2) within the bounds, checks that all sizes fit, and returns the log
// without the informative events that name no PCR. go-eventlog, which comes
// after it, allocates and loops by the log's own words: a header of 120,000
// algorithms and an event of as many digests fit 1 MiB, and kept it busy for
// minutes. After scan these words are true and small.
func scan(raw []byte) (clean []byte, err error) {
	if len(raw) > MaxLog {
		return nil, fmt.Errorf("it has more than %d bytes", MaxLog)
	}
	sizes, at, err := scanHeader(raw)
	if err != nil {
		return nil, err
	}
	clean = append(clean, raw[:at]...)
	for n := 0; at < len(raw); n++ {
		if n == MaxEvents {
			return nil, fmt.Errorf("it has more than %d events", MaxEvents)
		}
		end, err := scanEvent(raw, at, sizes)
		if err != nil {
			return nil, fmt.Errorf("event %d: %w", n+1, err)
		}
		if le32(raw[at:]) != noPCR {
			clean = append(clean, raw[at:end]...)
		} else if le32(raw[at+4:]) != evNoAction {
			return nil, fmt.Errorf("event %d: it names no PCR", n+1)
		}
		at = end
	}
	return clean, nil
}

type algSize struct {
	alg  tcg.AlgID
	size int
}

// scanHeader reads the first event, which has the format of TPM 1.2 and holds
// a TCG_EfiSpecIdEvent, and returns the digests' sizes and where it ends.
func scanHeader(raw []byte) ([]algSize, int, error) {
	const head = 4 + 4 + 20 + 4
	if len(raw) < head {
		return nil, 0, errLogShort
	}
	size := le32(raw[head-4:])
	if le32(raw[4:]) != evNoAction || size > maxHeader {
		return nil, 0, errLogHeader
	}
	if int(size) > len(raw)-head {
		return nil, 0, errLogShort
	}
	data := raw[head : head+int(size)]
	const fixed = 16 + 4 + 4 + 4 // signature, class, versions, count
	if !bytes.HasPrefix(data, []byte("Spec ID Event03\x00")) {
		return nil, 0, errLogHeader
	}
	if len(data) < fixed+1 {
		return nil, 0, errLogHeader
	}
	n := int(le32(data[fixed-4:]))
	if n < 1 || n > maxAlgs || len(data) < fixed+4*n+1 || len(data) != fixed+4*n+1+int(data[fixed+4*n]) {
		return nil, 0, errLogHeader
	}
	sizes := make([]algSize, n)
	for i := range sizes {
		b := data[fixed+4*i:]
		s := algSize{tcg.AlgID(le16(b)), int(le16(b[2:]))}
		if h, err := s.alg.Hash(); err == nil && h.Size() != s.size || s.size < 1 || s.size > maxDigest {
			return nil, 0, errLogHeader
		}
		for _, other := range sizes[:i] {
			if other.alg == s.alg {
				return nil, 0, errLogHeader
			}
		}
		sizes[i] = s
	}
	return sizes, head + int(size), nil
}

// scanEvent returns where the TCG_PCR_EVENT2 at an offset ends.
func scanEvent(raw []byte, at int, sizes []algSize) (int, error) {
	b := raw[at:]
	if len(b) < 12 {
		return 0, errLogShort
	}
	count := int(le32(b[8:]))
	if count > len(sizes) {
		return 0, errors.New("it has more digests than the log has algorithms")
	}
	next := 12
	seen := map[tcg.AlgID]bool{}
	for range count {
		if len(b) < next+2 {
			return 0, errLogShort
		}
		alg := tcg.AlgID(le16(b[next:]))
		size := 0
		for _, s := range sizes {
			if s.alg == alg {
				size = s.size
			}
		}
		if size == 0 || seen[alg] {
			return 0, errors.New("it has a digest of an algorithm that the log does not name, or twice")
		}
		seen[alg] = true
		if next += 2 + size; next > len(b) {
			return 0, errLogShort
		}
	}
	if len(b) < next+4 {
		return 0, errLogShort
	}
	size := le32(b[next:])
	if next += 4; uint64(size) > uint64(len(b)-next) {
		return 0, errLogShort
	}
	return at + next + int(size), nil
}

func le16(b []byte) uint16 { return binary.LittleEndian.Uint16(b) }
func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
