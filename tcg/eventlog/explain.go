package eventlog

import (
	"bytes"
	"crypto"
)

// maxSeparators is the maximum number of extensions by systemd after the end of a log: one for each
// start by kexec, which does not reset the PCRs.
const maxSeparators = 4

// Explains reports whether a replay of the log's events results in the value of the PCR `pcr`, one
// of the firmware's PCRs 0 to 7. The log must have been read for the PCR's bank, whose hash is
// `bank`. The value may also include extensions by systemd: since version 261, systemd extends
// these PCRs with "os-separator", but does not add an event to the log.
func (l *Log) Explains(pcr int, value []byte, bank crypto.Hash) bool {
	for _, v := range startValues(pcr, bank) {
		for _, e := range l.Events {
			if e.Type != NoAction && e.PCR == uint32(pcr) && len(e.Digest) == bank.Size() {
				v = extended(bank, v, e.Digest)
			}
		}
		for range maxSeparators + 1 {
			if bytes.Equal(v, value) {
				return true
			}
			v = extended(bank, v, hash(bank, []byte("os-separator")))
		}
	}
	return false
}

// startValues returns the possible values of a PCR after a reset. All bytes are zero, except the
// last byte of PCR 0: that byte is the locality of TPM2_Startup, or 4 after an H-CRTM sequence
// (Part 1, 34.3).
func startValues(pcr int, bank crypto.Hash) [][]byte {
	values := [][]byte{make([]byte, bank.Size())}
	if pcr == 0 {
		for _, locality := range []byte{1, 2, 3, 4} {
			v := make([]byte, bank.Size())
			v[len(v)-1] = locality
			values = append(values, v)
		}
	}
	return values
}

func extended(bank crypto.Hash, value, digest []byte) []byte {
	return hash(bank, value, digest)
}

func hash(bank crypto.Hash, parts ...[]byte) []byte {
	h := bank.New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}
