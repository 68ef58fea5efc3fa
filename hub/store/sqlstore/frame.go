package sqlstore

import (
	"encoding/binary"
	"math/bits"
	"sync"
)

// This file compresses short evidence into a Zstandard frame (RFC 8878) with the dictionary
// evidenceWords. evidenceDecoder reads the frame as it reads the frames of package zstd.
//
// Package zstd copies its hash table of 256 KiB for each frame with a dictionary. For 5 KiB of
// evidence, this copy and the memory accesses took more time than all the rest. frameEncoder has a
// small table for the evidence, and reads the dictionary's table without changing it. It also does
// not compute entropy tables: the literals of evidence are keys, hashes and signatures, and the
// format has predefined tables for the sequences.

const (
	minMatch      = 5 // bytes; a shorter match needs nearly as many bits as its bytes
	tableBits     = 12
	wordTableBits = 13
)

// sequence is a number of literals, and then a copy of earlier bytes.
type sequence struct {
	literals, match int
	// offset is the field Offset_Value: 1 for the offset of the sequence before, otherwise the
	// distance plus 3.
	offset int
}

// frameEncoder has the buffers of one call of appendFrame.
type frameEncoder struct {
	history   []byte                 // the dictionary, and then the content
	table     [1 << tableBits]uint16 // positions of the content in the field history, by hash; 0: none
	literals  []byte
	sequences []sequence
}

// The encoders keep the evidence of an earlier call. It contains no secrets.
var frameEncoders = sync.Pool{New: func() any {
	return &frameEncoder{history: append(make([]byte, 0, len(evidenceWords)+shortEvidence), evidenceWords...)}
}}

// wordTable has positions of the dictionary, by the hash of the bytes there.
var wordTable = sync.OnceValue(func() *[1 << wordTableBits]uint16 {
	t := new([1 << wordTableBits]uint16)
	for i := range len(evidenceWords) - 8 {
		t[hashOf(binary.LittleEndian.Uint64(evidenceWords[i:]), wordTableBits)] = uint16(i)
	}
	return t
})

// hashOf hashes the first minMatch bytes of v to n bits.
func hashOf(v uint64, n uint) uint64 {
	return (v << (64 - 8*minMatch)) * 0x9E3779B185EBCA87 >> (64 - n)
}

// appendFrame appends a frame with `content` to `out`. The content has at most shortEvidence bytes.
func appendFrame(out, content []byte) []byte {
	e := frameEncoders.Get().(*frameEncoder)
	defer frameEncoders.Put(e)
	e.split(content)
	// A frame in a single segment has no window: its content may refer to the whole dictionary.
	const (
		singleSegment    = 1 << 5
		oneByteDictID    = 1
		twoBytesSize     = 1 << 6
		dictID           = 1
		lastBlock        = 1
		rawBlock         = 0 << 1
		compressedBlock  = 2 << 1
		blockSizeAt      = 3
		blockHeaderBytes = 3
	)
	out = append(out, 0x28, 0xB5, 0x2F, 0xFD)
	if n := len(content); n < 256 {
		out = append(out, singleSegment|oneByteDictID, dictID, byte(n))
	} else {
		out = binary.LittleEndian.AppendUint16(append(out, singleSegment|oneByteDictID|twoBytesSize, dictID), uint16(n-256))
	}
	header := len(out)
	out = append(out, 0, 0, 0)
	out = e.appendBlock(out)
	kind, size := compressedBlock, len(out)-header-blockHeaderBytes
	if size >= len(content) {
		out = append(out[:header+blockHeaderBytes], content...)
		kind, size = rawBlock, len(content)
	}
	h := lastBlock | kind | size<<blockSizeAt
	out[header], out[header+1], out[header+2] = byte(h), byte(h>>8), byte(h>>16)
	return out
}

// The method `split` splits the content into sequences and literals. It takes the first match that
// it finds, the longer one of two.
func (e *frameEncoder) split(content []byte) {
	e.history = append(e.history[:len(evidenceWords)], content...)
	e.literals, e.sequences = e.literals[:0], e.sequences[:0]
	clear(e.table[:])
	words := wordTable()
	h := e.history
	start := len(evidenceWords) // of the literals before the next match
	latest := 0                 // the offset of the latest sequence
	for at := start; at+8 <= len(h); {
		v := binary.LittleEndian.Uint64(h[at:])
		slot := &e.table[hashOf(v, tableBits)]
		near, far := int(*slot), int(words[hashOf(v, wordTableBits)])
		*slot = uint16(at)
		from, length := 0, 0
		// The offset of the sequence before needs no bits. So 4 bytes are enough.
		if latest > 0 && at > start && binary.LittleEndian.Uint32(h[at-latest:]) == uint32(v) {
			from, length = at-latest, equalBytes(h, at-latest, at)
		} else {
			if near > 0 && (binary.LittleEndian.Uint64(h[near:])^v)<<(64-8*minMatch) == 0 {
				from, length = near, equalBytes(h, near, at)
			}
			if (binary.LittleEndian.Uint64(h[far:])^v)<<(64-8*minMatch) == 0 {
				if n := equalBytes(h, far, at); n > length {
					from, length = far, n
				}
			}
		}
		if length == 0 {
			at += 1 + (at-start)>>6 // the longer nothing matches, the less probable is a match
			continue
		}
		for at > start && from > 0 && h[from-1] == h[at-1] {
			from, at, length = from-1, at-1, length+1
		}
		s := sequence{literals: at - start, match: length, offset: at - from + 3}
		if at-from == latest && at > start {
			s.offset = 1
		}
		latest = at - from
		e.sequences = append(e.sequences, s)
		e.literals = append(e.literals, h[start:at]...)
		at += length
		start = at
		if at+6 <= len(h) { // the match may repeat, with the bytes before its end
			e.table[hashOf(binary.LittleEndian.Uint64(h[at-2:]), tableBits)] = uint16(at - 2)
		}
	}
	e.literals = append(e.literals, h[start:]...)
}

// equalBytes returns the number of equal bytes at the positions a and b of h. The position b is the
// later one.
func equalBytes(h []byte, a, b int) int {
	first := b
	for ; b+8 <= len(h); a, b = a+8, b+8 {
		if x := binary.LittleEndian.Uint64(h[a:]) ^ binary.LittleEndian.Uint64(h[b:]); x != 0 {
			return b - first + bits.TrailingZeros64(x)/8
		}
	}
	for ; b < len(h) && h[a] == h[b]; a, b = a+1, b+1 {
	}
	return b - first
}

// appendBlock appends a compressed block: raw literals, and then the sequences.
func (e *frameEncoder) appendBlock(out []byte) []byte {
	switch n := len(e.literals); {
	case n < 1<<5:
		out = append(out, byte(n<<3))
	case n < 1<<12:
		out = append(out, byte(1<<2|n<<4), byte(n>>4))
	default:
		out = append(out, byte(3<<2|n<<4), byte(n>>4), byte(n>>12))
	}
	out = append(out, e.literals...)
	n := len(e.sequences)
	if n == 0 {
		return append(out, 0)
	}
	if n < 128 {
		out = append(out, byte(n))
	} else {
		out = append(out, byte(n>>8+128), byte(n))
	}
	out = append(out, 0) // all three tables are the predefined ones
	// The decoder reads the sequences forward, and the bits backward. So the last sequence is
	// written first.
	w := bitWriter{out: out}
	lengths, matches, offsets := literalCodes(), matchCodes(), offsetCodes()
	var literal, match, offset fseState
	for i := n - 1; i >= 0; i-- {
		s := &e.sequences[i]
		l, m, o := lengths.code(s.literals), matches.code(s.match-3), bits.Len(uint(s.offset))-1
		if i == n-1 {
			literal, match, offset = lengths.start(l), matches.start(m), offsets.start(o)
		} else {
			offsets.next(&w, &offset, o)
			matches.next(&w, &match, m)
			lengths.next(&w, &literal, l)
		}
		w.add(uint(s.literals), lengths.extra[l])
		w.add(uint(s.match-3), matches.extra[m])
		w.add(uint(s.offset), uint(o))
	}
	w.add(uint(match), matches.log)
	w.add(uint(offset), offsets.log)
	w.add(uint(literal), lengths.log)
	return w.close()
}

// bitWriter appends bits to bytes, the lowest bit first.
type bitWriter struct {
	out  []byte
	bits uint64
	n    uint
}

// The method `add` appends the lowest n bits of v. n is at most 32.
func (w *bitWriter) add(v uint, n uint) {
	w.bits |= uint64(v) & (1<<n - 1) << w.n
	if w.n += n; w.n >= 32 {
		w.out = binary.LittleEndian.AppendUint32(w.out, uint32(w.bits))
		w.bits >>= 32
		w.n -= 32
	}
}

// The method `close` appends the bit that marks the end, and returns all bytes.
func (w *bitWriter) close() []byte {
	w.add(1, 1)
	for ; w.n > 0; w.n -= min(w.n, 8) {
		w.out = append(w.out, byte(w.bits))
		w.bits >>= 8
	}
	return w.out
}

// fseState is the state of an FSE encoder. Its lowest bits are the state of the decoder.
type fseState uint32

// fseTable is a predefined FSE table (RFC 8878, appendix A), and the values of its codes.
type fseTable struct {
	log    uint // the table has 1<<log states
	states []fseState
	steps  []fseStep
	// extra has the number of extra bits of each code: the lowest bits of the value. The table of
	// offsets has none: the code of an offset is the number of its extra bits.
	extra []uint
	short [128]uint8 // the codes of the first values
}

// fseStep says how a code changes the state. The meaning is as in the reference implementation.
type fseStep struct {
	bits uint32 // deltaNbBits
	find int32  // deltaFindState
}

func (c *fseTable) start(code int) fseState {
	s := c.steps[code]
	n := (s.bits + 1<<15) >> 16
	return c.states[int32((n<<16-s.bits)>>n)+s.find]
}

// next writes bits so that the decoder, after the code, gets back to the present state.
func (c *fseTable) next(w *bitWriter, now *fseState, code int) {
	s := c.steps[code]
	n := (uint32(*now) + s.bits) >> 16
	w.add(uint(*now), uint(n))
	*now = c.states[int32(uint32(*now)>>n)+s.find]
}

// The method `code` returns the code that stands for a value.
func (c *fseTable) code(value int) int {
	if value < len(c.short) {
		return int(c.short[value])
	}
	// From here on, each code has twice as many values as the code before.
	n := bits.Len(uint(value)) - 1
	return int(c.short[len(c.short)-1]) + n - 6
}

// newCodes makes a table from the probabilities of the codes. A probability of -1 stands for "less
// than 1".
func newCodes(log uint, probabilities []int, extra []uint) *fseTable {
	size := 1 << log
	c := &fseTable{log: log, states: make([]fseState, size), steps: make([]fseStep, len(probabilities)), extra: extra}
	symbols, place := make([]int, size), make([]int, len(probabilities)+1)
	last := size - 1 // the last place that no code with the probability -1 has
	for s, p := range probabilities {
		if p == -1 {
			symbols[last] = s
			last--
			p = 1
		}
		place[s+1] = place[s] + p
	}
	at := 0
	for s, p := range probabilities {
		for range max(p, 0) {
			symbols[at] = s
			for at = (at + size>>1 + size>>3 + 3) & (size - 1); at > last; {
				at = (at + size>>1 + size>>3 + 3) & (size - 1)
			}
		}
	}
	total := 0
	for s, p := range probabilities {
		p = max(p, -p)
		n := log
		if p > 1 {
			n = log + 1 - uint(bits.Len(uint(p-1)))
		}
		c.steps[s] = fseStep{bits: uint32(n<<16) - uint32(p<<n), find: int32(total - p)}
		total += p
	}
	for i, s := range symbols {
		c.states[place[s]] = fseState(size + i)
		place[s]++
	}
	base := uint(0)
	for code, n := range extra {
		for v := base; v < base+1<<n && v < uint(len(c.short)); v++ {
			c.short[v] = uint8(code)
		}
		base += 1 << n
	}
	return c
}

// The predefined tables.
var (
	literalCodes = sync.OnceValue(func() *fseTable {
		return newCodes(6,
			[]int{4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1},
			[]uint{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16})
	})
	matchCodes = sync.OnceValue(func() *fseTable {
		return newCodes(6,
			[]int{1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1},
			[]uint{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16})
	})
	offsetCodes = sync.OnceValue(func() *fseTable {
		return newCodes(5,
			[]int{1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1}, nil)
	})
)
