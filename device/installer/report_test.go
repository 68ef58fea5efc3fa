package installer

import (
	"bytes"
	"crypto"
	"testing"

	"gangway/device/identity"
	"gangway/internal/eventlog"
	"gangway/internal/swtpm"
	"gangway/internal/swtpm/swtpmtest"
	"gangway/tcg"
	log "gangway/tcg/eventlog"
	"gangway/wire"
)

// The TPM signs the partition table together with those events of the event log that show which
// installer ran. The key is the IAK that the agent uses later.
func TestReportIsSignedByTheIAK(t *testing.T) {
	t.Parallel()
	s := swtpmtest.Start(t, swtpm.Options{EK: swtpm.P384})
	tpm, err := identity.Open(s.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer tpm.Close()
	table := []byte("a partition table")
	whole := eventlog.Boot(true, "installer", "quiet").Bytes()
	r, err := quoteTable(t.Context(), tpm, table, whole)
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.Load(t.Context(), tpm, identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	iak := id.IAK
	id.Close()
	a, err := tcg.ParseQuote(r.Attest)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := tcg.ParseSignature(r.Signature)
	if err != nil || iak.Verify(r.Attest, sig) != nil {
		t.Errorf("the signature is not the agent's IAK's: %v", err)
	}
	if !bytes.Equal(a.ExtraData, wire.InstallQualifying(table, r.EventLog)) || !bytes.Equal(r.Table, table) || len(r.PCRs) != 16 {
		t.Errorf("%x, %d PCRs", a.ExtraData, len(r.PCRs))
	}
	bank := tcg.AlgID(r.Bank)
	if h, err := bank.Hash(); err != nil || h != crypto.SHA256 && h != crypto.SHA384 {
		t.Errorf("bank %d: %v", bank, err)
	}
	for _, e := range log.Read(r.EventLog, bank).Events {
		if e.Type != log.NoAction && e.PCR != 4 && e.PCR != 11 && e.PCR != 12 {
			t.Errorf("the report has an event of PCR %d", e.PCR)
		}
	}
	if len(r.EventLog) >= len(whole) {
		t.Errorf("the report has %d bytes of log; the whole log has %d", len(r.EventLog), len(whole))
	}
}

// A report is optional: the machine starts the installed system even if the report fails.
func TestFailedReportDoesNotStopTheInstallation(t *testing.T) {
	for _, step := range []string{"read the table of nvme0n1", "sign the table of nvme0n1", "write the report on the table of nvme0n1 to nvme0n1"} {
		t.Run(step, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				l := newLab(t, nvme)
				l.failing[step] = errBroken
				l.run(automatic, 0)
				l.want("install to nvme0n1", "start nvme0n1", step, "log The partition table is not reported: it is broken", "status Installed.", "restart")
				l.never("alarm", "log reported")
			})
		})
	}
}
