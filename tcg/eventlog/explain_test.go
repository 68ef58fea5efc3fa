package eventlog_test

import (
	"crypto"
	"crypto/sha256"
	"testing"

	"gangway/internal/eventlog"
	"gangway/tcg"
	log "gangway/tcg/eventlog"
)

func TestExplainsTheFirmwaresPCRs(t *testing.T) {
	t.Parallel()
	boot := eventlog.Boot(true, "kernel", "quiet")
	l := log.Read(boot.Bytes(), tcg.AlgSHA256)
	if l.State != log.Whole || l.Problem != "" {
		t.Fatalf("%+v", l)
	}
	for pcr, value := range boot.PCRs()[:8] {
		if !l.Explains(pcr, value, crypto.SHA256) {
			t.Errorf("PCR %d is not explained", pcr)
		}
		word := sha256.Sum256([]byte("os-separator"))
		more := sha256.Sum256(append(value, word[:]...))
		if !l.Explains(pcr, more[:], crypto.SHA256) {
			t.Errorf("PCR %d with systemd's separator is not explained", pcr)
		}
		more = sha256.Sum256(append(value, []byte("unlogged")...))
		if l.Explains(pcr, more[:], crypto.SHA256) {
			t.Errorf("PCR %d with an extension that is not in the log is explained", pcr)
		}
	}
}

// After TPM2_Startup at locality 3, PCR 0 starts with the value 3.
func TestExplainsPCR0OfAnotherLocality(t *testing.T) {
	t.Parallel()
	l := log.Read(eventlog.Log{{PCR: 0, Data: []byte("version")}, {PCR: 1, Data: []byte("version")}}.Bytes(), tcg.AlgSHA256)
	start, version := make([]byte, 32), sha256.Sum256([]byte("version"))
	start[31] = 3
	value := sha256.Sum256(append(start, version[:]...))
	if !l.Explains(0, value[:], crypto.SHA256) {
		t.Error("PCR 0 is not explained")
	}
	if l.Explains(1, value[:], crypto.SHA256) {
		t.Error("PCR 1 is explained, although only PCR 0 depends on the locality")
	}
}
