package sqlstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"gangway/hub/store"
	"gangway/tcg"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// An enrolment has several long columns: the certificates, the verdict and the request itself. They
// repeat parts of each other, and texts that most enrolments have in common, so they are compressed
// together, and the result is stored in the column `request`:
//
//	byte 0   the form: packedZstd or packedS2
//	byte 1   withChain, or 0
//	16 bytes if withChain: the key of the row of ek_chains with the links
//	rest     a Zstandard frame or an S2 block, with the dictionary evidenceWords
//
// The rest contains the fields of the type evidence in order, each as its length (a uvarint) and
// its bytes. Texts that follow from other columns of the row are abbreviated (see names).
//
// In a packed row, the columns iak_public, ek_certificate, iak_cert, idevid_cert, verdict and
// ek_links are empty. Rows that earlier versions of the hub wrote are not packed until PackEvidence
// packs them. A request that is not packed never begins with a form. A row that stripEnrolment has
// emptied is not packed either.
//
// S2 needs a quarter of the CPU time of Zstandard. Its output is longer, which three more
// abbreviations nearly make up for. In SQLite, a row needs half a page in both forms. In PostgreSQL,
// a row with the form packedS2 is often longer than a quarter of a page, and then needs 0.5 kB more.
// Moreover, hubs of an earlier version may use a PostgreSQL database during an upgrade, and could
// not read this form. So the hub writes it only to databases that a single process uses.
const (
	packedZstd = 0xE1
	packedS2   = 0xE2
	withChain  = 1
)

// evidenceWords is the dictionary of packed evidence: what most rows have in common, such as the
// parts of certificates and verdicts that never change, and the names of TPM makers. Never change
// it, because stored rows cannot be read without it. Rows with a new dictionary would need another
// form.
//
//go:embed dictionary/1
var evidenceWords []byte

// maxEvidence bounds the size of unpacked evidence, in bytes. The API accepts much smaller
// requests, and larger evidence would exceed store.MaxPending, so it would expire at once.
const maxEvidence = store.MaxPending

var errBadEvidence = errors.New("the stored evidence is damaged")

// The encoders and decoders of packed evidence. They are safe for concurrent use.
var (
	evidenceS2      = s2.MakeDictManual(evidenceWords, 0)
	evidenceEncoder = newEncoder()
	// shortEncoder compresses only repetitions. The other bytes of short evidence are keys, hashes
	// and signatures, which entropy coding cannot make smaller.
	shortEncoder    = newEncoder(zstd.WithNoEntropyCompression(true))
	evidenceDecoder = must(zstd.NewReader(nil, zstd.WithDecoderDictRaw(1, evidenceWords), zstd.WithDecoderConcurrency(0),
		zstd.WithDecoderMaxMemory(maxEvidence), zstd.WithDecoderLowmem(true)))
)

// shortEvidence is the largest length of evidence that shortEncoder or evidenceS2 compresses. Longer
// evidence contains a boot event log, which entropy coding does make smaller.
const shortEvidence = 16 << 10

func newEncoder(more ...zstd.EOption) *zstd.Encoder {
	return must(zstd.NewWriter(nil, append([]zstd.EOption{zstd.WithEncoderDictRaw(1, evidenceWords), zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(512 << 10), zstd.WithLowerEncoderMem(true)}, more...)...))
}

// The function `must` returns `coder`, and panics if `err` is not nil.
func must[T any](coder T, err error) T {
	if err != nil {
		panic(err)
	}
	return coder
}

// evidence holds the long columns of an enrolment.
type evidence struct {
	iakPublic, ekCertificate, iakCert, idevidCert, verdict, request, ekLinks []byte
	// If hasChain is true, `chain` is the key with which withLinks reads ekLinks from the table
	// ek_chains. The method `unpack` then leaves ekLinks empty.
	chain    chainKey
	hasChain bool
	packed   bool // the stored row is packed

	// The values of other columns of the row. Packed evidence contains abbreviations for these
	// texts, which is possible because they never change.
	device, owner, token, model, serial string
	iakName, idevidName                 []byte
	ek                                  store.Hash
}

// chainKey is the key of a row of ek_chains: the first 16 bytes of the SHA-256 of the intermediate
// certificates. These come from the hub's trust store or from TPM makers, so an attacker cannot
// choose two chains with the same key.
type chainKey [16]byte

func evidenceOf(e *store.Enrolment) *evidence {
	return &evidence{device: e.DeviceID, owner: e.Owner, token: e.TokenID, model: e.Model, serial: e.ProdSerial, iakName: e.IAKName, idevidName: e.IDevIDName, ek: e.EK,
		iakPublic: e.IAKPublic, ekCertificate: e.EKCertificate, iakCert: e.IAKCert, idevidCert: e.IDevIDCert,
		verdict: e.Verdict, request: e.Request, ekLinks: e.EKLinks}
}

// The method `share` moves the links out of the evidence: the method `pack` then writes only their
// key, and all enrolments with the same links share one row of the table ek_chains. The caller must
// call storeChain, which writes this row, in the transaction that writes the packed evidence.
func (v *evidence) share() {
	if len(v.ekLinks) > 0 {
		sum := sha256.Sum256(v.ekLinks)
		v.chain, v.hasChain = chainKey(sum[:]), true
	}
}

func (v *evidence) fields() []*[]byte {
	return []*[]byte{&v.iakPublic, &v.ekCertificate, &v.iakCert, &v.idevidCert, &v.verdict, &v.request, &v.ekLinks}
}

// An abbreviation is the byte `escape` and a second byte. If the second byte is noName+1+i, the
// abbreviation stands for the text names()[i]. If it is `noName`, the abbreviation stands for a
// literal byte `escape`.
const (
	escape = 0xF7
	noName = 0x80
)

// names returns the texts that are abbreviated in packed evidence: values of other columns of the
// row that certificates and verdicts repeat, and what follows from these values. Compression alone
// could not shorten the first occurrence of each text.
func (v *evidence) names(form byte) [][]byte {
	list := append(make([][]byte, 0, maxNames), hex.AppendEncode(nil, v.iakName), []byte(v.device), []byte(v.owner), []byte(v.token), v.iakName, v.idevidName, []byte(v.model), []byte(v.serial))
	if form == packedS2 {
		// The certification contains the qualified names of both keys, which are primary keys of
		// the endorsement hierarchy, and the certificates contain the first half of the EK's hash.
		iak, _ := tcg.EndorsementQualifiedName(v.iakName)
		idevid, _ := tcg.EndorsementQualifiedName(v.idevidName)
		list = append(list, iak, idevid, hex.AppendEncode(nil, v.ek[:len(v.ek)/2]))
	}
	return list
}

// maxNames is the largest number of texts that names returns.
const maxNames = 11

// minName is the length of the shortest text that is abbreviated.
const minName = 8

// abbreviate appends `b` to `out`, with abbreviations in place of the names.
func (v *evidence) abbreviate(form byte, out, b []byte) []byte {
	// For each byte value, the upper half of `has` says which names begin with it, and the lower
	// half says which names have it as their second byte: bit i is for names[i]. The bit `escaped`
	// stands for the byte `escape`, which may be followed by any byte.
	const escaped = 1 << maxNames
	var has [256]uint32
	names := v.names(form)
	for i, name := range names {
		if len(name) >= minName {
			has[name[0]] |= 1 << (16 + i)
			has[name[1]] |= 1 << i
		}
	}
	has[escape] |= escaped << 16
	for i := range has {
		has[i] |= escaped
	}
	copied := 0         // the first bytes of b, which are in `out`
	before := uint32(0) // has[b[i]]
	if len(b) > 0 {
		before = has[b[0]]
	}
	for i := 0; i+1 < len(b); i++ {
		next := has[b[i+1]]
		may := before >> 16 & next
		before = next
		if may == 0 {
			continue
		}
		length, code := 0, byte(noName)
		for n := 0; n < len(names); n++ {
			if may&(1<<n) != 0 && bytes.HasPrefix(b[i:], names[n]) {
				length, code = len(names[n]), noName+1+byte(n)
				break
			}
		}
		if length == 0 && b[i] == escape {
			length = 1
		}
		if length > 0 {
			out = append(append(out, b[copied:i]...), escape, code)
			copied = i + length
			i = copied - 1
			if copied < len(b) {
				before = has[b[copied]]
			}
		}
	}
	out = append(out, b[copied:]...)
	if copied < len(b) && b[len(b)-1] == escape {
		out = append(out, noName)
	}
	return out
}

// expand replaces the abbreviations in b.
func (v *evidence) expand(form byte, b []byte) ([]byte, error) {
	names := v.names(form)
	out := make([]byte, 0, 2*len(b))
	for {
		i := bytes.IndexByte(b, escape)
		if i < 0 {
			return append(out, b...), nil
		}
		if i+1 == len(b) || len(out) > maxEvidence {
			return nil, errBadEvidence
		}
		out = append(out, b[:i]...)
		switch n := int(b[i+1]) - noName - 1; {
		case n == -1:
			out = append(out, escape)
		case n >= 0 && n < len(names):
			out = append(out, names[n]...)
		default:
			return nil, errBadEvidence
		}
		b = b[i+2:]
	}
}

// plainEvidence is a pool of buffers for evidence before it is compressed.
var plainEvidence = sync.Pool{New: func() any { return &[2][]byte{make([]byte, 0, 8<<10), make([]byte, 0, 8<<10)} }}

// pack returns the evidence as the column `request` stores it. `shared` is the result of DB.Shared.
func (v *evidence) pack(shared bool) []byte {
	buffers := plainEvidence.Get().(*[2][]byte)
	defer plainEvidence.Put(buffers)
	b := buffers[0][:0]
	for _, f := range v.fields() {
		if f == &v.ekLinks && v.hasChain {
			b = append(b, 0)
			continue
		}
		b = append(binary.AppendUvarint(b, uint64(len(*f))), *f...)
	}
	buffers[0] = b
	form := byte(packedZstd)
	if !shared && len(b) <= shortEvidence {
		form = packedS2
	}
	b = v.abbreviate(form, buffers[1][:0], b)
	buffers[1] = b
	out := make([]byte, 2, 2<<10)
	out[0] = form
	if v.hasChain {
		out[1] = withChain
		out = append(out, v.chain[:]...)
	}
	switch {
	case form == packedS2:
		buffers[0] = slices.Grow(buffers[0][:0], s2.MaxEncodedLen(len(b)))
		return append(out, evidenceS2.Encode(buffers[0][:cap(buffers[0])], b)...)
	case len(b) <= shortEvidence:
		return shortEncoder.EncodeAll(b, out)
	}
	return evidenceEncoder.EncodeAll(b, out)
}

// isPacked reports whether a value of the column `request` is packed.
func isPacked(request []byte) bool {
	return len(request) > 0 && (request[0] == packedZstd || request[0] == packedS2)
}

// unpack reads a packed value of the column `request` into v. The fields of v then share one buffer.
func (v *evidence) unpack(packed []byte) error {
	if len(packed) < 2 || !isPacked(packed) || packed[1] > withChain {
		return errBadEvidence
	}
	form := packed[0]
	v.hasChain = packed[1] == withChain
	packed = packed[2:]
	if v.hasChain {
		if len(packed) < len(v.chain) {
			return errBadEvidence
		}
		packed = packed[copy(v.chain[:], packed):]
	}
	b, err := decompress(form, packed)
	if err == nil {
		b, err = v.expand(form, b)
	}
	if err != nil {
		return errBadEvidence
	}
	for _, f := range v.fields() {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			return errBadEvidence
		}
		if *f = nil; n > 0 {
			*f = b[size : size+int(n) : size+int(n)]
		}
		b = b[size+int(n):]
	}
	if len(b) > 0 || v.hasChain && v.ekLinks != nil {
		return errBadEvidence
	}
	return nil
}

func decompress(form byte, b []byte) ([]byte, error) {
	if form == packedZstd {
		return evidenceDecoder.DecodeAll(b, make([]byte, 0, 8<<10))
	}
	if n, err := s2.DecodedLen(b); err != nil || n > maxEvidence {
		return nil, errBadEvidence
	}
	return evidenceS2.Decode(nil, b)
}

// evidenceColumns are the columns that readEvidence reads. They require that the query names the
// table enrolments `e`.
const evidenceColumns = `e.device, e.owner, e.token, e.model, e.prod_serial, e.iak_name, e.idevid_name, e.ek, e.iak_public, e.ek_certificate, e.iak_cert, e.idevid_cert, e.verdict, e.request, e.ek_links`

// readEvidence reads evidenceColumns, and unpacks a packed row. It does not read the table
// ek_chains.
func readEvidence(r *Row) (v evidence, err error) {
	v.device, v.owner, v.token, v.model, v.serial = r.text(), r.text(), r.text(), r.text(), r.text()
	v.iakName, v.idevidName, v.ek = r.blob(), r.blob(), r.hash()
	for _, f := range v.fields() {
		*f = r.blob()
	}
	if !isPacked(v.request) {
		return v, nil
	}
	packed := v.request
	v.request = nil
	for _, f := range v.fields() {
		if len(*f) > 0 { // a packed row has no other content
			return evidence{}, errBadEvidence
		}
	}
	v.packed = true
	return v, v.unpack(packed)
}

// withLinks reads the links from the table ek_chains, unless they are in the evidence itself.
func (v *evidence) withLinks(c Conn) error {
	if !v.hasChain {
		return nil
	}
	r, ok, err := c.One(selectChain, v.chain[:])
	if err == nil && !ok {
		err = errBadEvidence
	}
	if err == nil {
		v.ekLinks = r.blob()
	}
	return err
}

// assign copies the evidence to an enrolment.
func (v *evidence) assign(e *store.Enrolment) {
	e.IAKPublic, e.EKCertificate, e.IAKCert, e.IDevIDCert = v.iakPublic, v.ekCertificate, v.iakCert, v.idevidCert
	e.Verdict, e.Request, e.EKLinks = v.verdict, v.request, v.ekLinks
}

// The rows of ek_chains never change, and are never removed. They have no reference count, because
// each enrolment would have to change the count of its chain. The number of rows stays small,
// because the links in a request add no row: see store.Enrolment.CommonLinks.
var (
	insertChain = prepared(`INSERT INTO ek_chains (sum, links) VALUES (?, ?) ON CONFLICT DO NOTHING`)
	selectChain = prepared(`SELECT links FROM ek_chains WHERE sum = ?`)
)

var (
	selectToPack = prepared(`SELECT e.id, ` + evidenceColumns + ` FROM enrolments e WHERE e.id > ? ORDER BY e.id LIMIT ?`)
	// Packs one row, unless the row has changed since it was read.
	packEvidence = prepared(`UPDATE enrolments SET iak_public = x'', ek_certificate = x'', iak_cert = x'', idevid_cert = x'',
		verdict = x'', ek_links = x'', request = ? WHERE id = ? AND request = ? AND state <> 'p'`)
	// Empties the copy of an EK certificate in ek_certificates if the TPM's enrolment has the same
	// certificate: see selectEKCertificate.
	dropKeptCopy = prepared(`UPDATE ek_certificates SET certificate = x'', links = x'' WHERE proven = 1 AND certificate = ? AND links = ?
		AND ek = (SELECT t.ek FROM tpms t WHERE t.enrolment = ?)`)
)

// settingPacked is the name of a setting. Its value is the row id of the last enrolment that
// PackEvidence has read, or allPacked if PackEvidence has read all enrolments.
const (
	settingPacked = "packed-evidence"
	allPacked     = "all"
)

// packedRow is a row that PackEvidence writes.
type packedRow struct {
	id            int64
	before, after []byte // the value of the column `request`
	v             evidence
}

// PackEvidence implements store.Enrolments.
func (s *Store) PackEvidence(ctx context.Context, limit int) (more bool, err error) {
	if s.packed.Load() || limit <= 0 {
		return false, nil
	}
	after, err := s.setting(ctx, settingPacked)
	if err != nil {
		return false, err
	}
	var rows []packedRow
	last, read := int64(0), 0
	if after != allPacked {
		if rows, last, read, err = s.readToPack(ctx, after, limit); err != nil {
			return false, err
		}
		packAll(rows, s.db.Shared())
		if err := s.db.Write(ctx, func(c Conn) error { return s.writePacked(c, rows, last, read == limit) }); err != nil {
			return false, err
		}
	}
	more = after != allPacked && read == limit
	s.packed.Store(!more)
	return more, nil
}

// readToPack reads the next rows, and returns the rows that are not packed. `read` is the number of
// rows that it has read, and `last` is the row id of the last of them.
func (s *Store) readToPack(ctx context.Context, after string, limit int) (rows []packedRow, last int64, read int, err error) {
	first, err := strconv.ParseInt("0"+after, 10, 64)
	if err != nil {
		return nil, 0, 0, fmt.Errorf("store: the setting %s: %w", settingPacked, err)
	}
	err = s.db.Read(ctx, func(c Conn) error {
		rows, last, read = nil, first, 0
		return c.Each(selectToPack, func(r Row) (bool, error) {
			read, last = read+1, r.int64()
			v, err := readEvidence(&r)
			if err != nil || v.packed || len(v.request) == 0 {
				return true, nil // packed, stripped, or damaged, which fsck reports
			}
			rows = append(rows, packedRow{id: last, before: v.request, v: v})
			return true, nil
		}, first, int64(limit))
	})
	return rows, last, read, err
}

// packAll packs rows. Rows with the same links share one row of ek_chains. Many rows do, because
// most TPMs come from a few makers.
func packAll(rows []packedRow, shared bool) {
	times := map[string]int{}
	for i := range rows {
		times[string(rows[i].v.ekLinks)]++
	}
	for i := range rows {
		row := &rows[i]
		if times[string(row.v.ekLinks)] > 1 {
			row.v.share()
		}
		row.after = row.v.pack(shared)
	}
}

func (s *Store) writePacked(c Conn, rows []packedRow, last int64, more bool) error {
	for i := range rows {
		row := &rows[i]
		if err := s.storeChain(c, &row.v); err != nil {
			return err
		}
		if err := c.Do(packEvidence, row.after, row.id, row.before); err != nil {
			return err
		}
		if len(row.v.ekCertificate) == 0 {
			continue
		}
		if err := c.Do(dropKeptCopy, row.v.ekCertificate, row.v.ekLinks, row.id); err != nil {
			return err
		}
	}
	upTo := allPacked
	if more {
		upTo = strconv.FormatInt(last, 10)
	}
	return c.Do(upsertSetting, settingPacked, upTo)
}

// storeChain writes the shared links of packed evidence.
func (s *Store) storeChain(c Conn, v *evidence) error {
	if !v.hasChain {
		return nil
	}
	if _, stored := s.chains.Load(v.chain); stored {
		return nil
	}
	return c.Do(insertChain, v.chain[:], v.ekLinks)
}
