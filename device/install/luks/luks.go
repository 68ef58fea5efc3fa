package luks

import (
	"bytes"
	"crypto/aes"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/google/uuid"
	"golang.org/x/crypto/xts"
)

// iterations is the number of PBKDF2 iterations: the smallest number that cryptsetup accepts. More
// iterations would not make the random passphrases safer.
const iterations = 1000

// Key is the key that encrypts the partition's data.
type Key []byte

// Slot is a key slot: a passphrase, and the LUKS2 token that the header stores for this slot. The
// passphrase must be made from at least 16 random bytes.
type Slot struct {
	Passphrase []byte
	// Token is optional: the JSON of the header's LUKS2 token for this slot. Programs use the LUKS2
	// token to get the passphrase, for example from the TPM. Format sets the field "keyslots" of
	// the LUKS2 token.
	Token map[string]any
}

// Format makes the first Overhead bytes of a new partition: the headers and the key slots. It also
// makes the key that encrypts the partition's data.
func Format(slots []Slot) (head []byte, key Key, err error) {
	key = make(Key, keySize)
	rand.Read(key)
	salt := random(32)
	sum, err := derive(key, salt, sha256.Size)
	if err != nil {
		return nil, nil, err
	}
	m := metadata{
		Keyslots: map[string]keyslot{}, Tokens: map[string]json.RawMessage{},
		Segments: map[string]segment{"0": {Type: "crypt", Offset: Overhead, Size: "dynamic", Encryption: cipherName, SectorSize: sector}},
		Config:   config{jsonSize, Overhead - slotsBegin},
	}
	d := digest{Type: "pbkdf2", Segments: []string{"0"}, Hash: "sha256", Iterations: iterations, Salt: salt, Digest: sum}
	head = make([]byte, Overhead)
	for i, s := range slots {
		name := strconv.Itoa(i)
		if len(s.Passphrase) < 16 {
			return nil, nil, fmt.Errorf("luks: the passphrase of slot %d has %d bytes; at least 16 are required", i, len(s.Passphrase))
		}
		k := newKeyslot(i)
		if err := k.crypt(head[k.Area.Offset:], split(key), s.Passphrase, (*xts.Cipher).Encrypt); err != nil {
			return nil, nil, err
		}
		m.Keyslots[name] = k
		d.Keyslots = append(d.Keyslots, name)
		if s.Token != nil {
			s.Token["keyslots"] = []string{name}
			if m.Tokens[name], err = json.Marshal(s.Token); err != nil {
				return nil, nil, fmt.Errorf("luks: %w", err)
			}
		}
	}
	m.Digests = map[string]digest{"0": d}
	text, err := json.Marshal(m)
	if err != nil {
		return nil, nil, fmt.Errorf("luks: %w", err)
	}
	id := uuid.NewString()
	for _, h := range copies {
		b, err := header(h.magic, h.at, random(64), id, text)
		if err != nil {
			return nil, nil, err
		}
		copy(head[h.at:], b)
	}
	return head, key, nil
}

func newKeyslot(n int) keyslot {
	k := keyslot{Type: "luks2", KeySize: keySize, KDF: kdf{"pbkdf2", "sha256", iterations, random(32)}}
	k.AF.Type, k.AF.Stripes, k.AF.Hash = "luks1", stripes, "sha256"
	k.Area.Type, k.Area.Encryption, k.Area.KeySize = "raw", cipherName, keySize
	k.Area.Offset, k.Area.Size = slotsBegin+int64(n)*slotSize, slotSize
	return k
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func derive(secret, salt []byte, size int) ([]byte, error) {
	return pbkdf2.Key(sha256.New, string(secret), salt, iterations, size)
}

// crypt encrypts or decrypts a key's stripes, which the function split made. It does so with
// another key, which it derives from the passphrase. `f` is the method Encrypt or Decrypt of
// xts.Cipher.
func (k keyslot) crypt(to, from, passphrase []byte, f func(c *xts.Cipher, to, from []byte, n uint64)) error {
	derived, err := derive(passphrase, k.KDF.Salt, keySize)
	if err != nil {
		return fmt.Errorf("luks: %w", err)
	}
	c, err := xts.NewCipher(aes.NewCipher, derived)
	if err != nil {
		return fmt.Errorf("luks: %w", err)
	}
	for i := 0; i < len(from); i += sector {
		f(c, to[i:i+sector], from[i:i+sector], uint64(i/sector))
	}
	return nil
}

// ErrPassphrase means that the passphrase does not open any key slot.
var ErrPassphrase = errors.New("luks: the passphrase opens no key slot")

// Open returns the data key of a partition that Format made. If no slot accepts the passphrase,
// the error is ErrPassphrase.
func Open(r io.ReaderAt, passphrase []byte) (Key, error) {
	m, err := readHeader(r)
	if err != nil {
		return nil, err
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	d := m.Digests["0"]
	for _, name := range d.Keyslots {
		k := m.Keyslots[name]
		area := make([]byte, stripes*keySize)
		if _, err := r.ReadAt(area, k.Area.Offset); err != nil {
			return nil, fmt.Errorf("luks: key slot %s: %w", name, err)
		}
		if err := k.crypt(area, area, passphrase, (*xts.Cipher).Decrypt); err != nil {
			return nil, err
		}
		key := merge(area, keySize)
		sum, err := derive(key, d.Salt, sha256.Size)
		if err != nil {
			return nil, fmt.Errorf("luks: %w", err)
		}
		if bytes.Equal(sum, d.Digest) {
			return key, nil
		}
	}
	return nil, ErrPassphrase
}

// check returns an error for a header that Format would not make.
func (m *metadata) check() error {
	s, d := m.Segments["0"], m.Digests["0"]
	if len(m.Segments) != 1 || s.Type != "crypt" || s.Offset != Overhead || s.Size != "dynamic" || s.Tweak != 0 || s.Encryption != cipherName || s.SectorSize != sector {
		return errors.New("luks: the data segment has parameters that Gangway's installer does not use")
	}
	if d.Type != "pbkdf2" || d.Hash != "sha256" || d.Iterations != iterations || len(d.Keyslots) > 8 {
		return errors.New("luks: the key digest has parameters that Gangway's installer does not use")
	}
	for _, name := range d.Keyslots {
		k := m.Keyslots[name]
		if k.Type != "luks2" || k.KeySize != keySize || k.AF.Stripes != stripes || k.AF.Hash != "sha256" || k.Area.Encryption != cipherName || k.Area.KeySize != keySize ||
			k.KDF.Type != "pbkdf2" || k.KDF.Hash != "sha256" || k.KDF.Iterations != iterations ||
			k.Area.Offset < slotsBegin || k.Area.Offset > Overhead-slotSize || k.Area.Size != slotSize {
			return fmt.Errorf("luks: key slot %s has parameters that Gangway's installer does not use", name)
		}
	}
	return nil
}

// Token returns the JSON of the header's first LUKS2 token of the type `kind`.
func Token(r io.ReaderAt, kind string) (json.RawMessage, error) {
	m, err := readHeader(r)
	if err != nil {
		return nil, err
	}
	for _, t := range m.Tokens {
		var head struct{ Type string }
		if json.Unmarshal(t, &head) == nil && head.Type == kind {
			return t, nil
		}
	}
	return nil, fmt.Errorf("luks: the header has no LUKS2 token of the type %s", kind)
}

// Cipher returns the cipher of the partition's data. The cipher works on sectors of 512 bytes;
// sector 0 is at Overhead.
func (k Key) Cipher() (*xts.Cipher, error) {
	c, err := xts.NewCipher(aes.NewCipher, k)
	if err != nil {
		return nil, fmt.Errorf("luks: %w", err)
	}
	return c, nil
}
