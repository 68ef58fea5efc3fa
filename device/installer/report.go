package installer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"gangway/device/identity"
	"gangway/device/install"
	"gangway/device/machine"
	"gangway/tcg/eventlog"
	"gangway/wire"
)

// reportTime bounds the time in which a TPM makes the IAK and quotes.
const reportTime = 2 * time.Minute

// reportTable writes a report to the installed disk. The report describes the partition table that
// the installer has just written. The TPM signs the report while its PCRs still show that this
// installer runs. The device later sends the report to the hub, which then expects this table in
// PCR 5. A failure does not stop the installation: the hub then learns the table from the first
// boot.
func (i *Installer) reportTable(d *install.Disk, system *install.Installed) {
	if err := i.makeReport(d, system); err != nil {
		i.Screen.Logf("The partition table is not reported: %v", err)
		return
	}
	i.Screen.Logf("reported the partition table")
}

func (i *Installer) makeReport(d *install.Disk, system *install.Installed) error {
	table, err := i.Disks.Table(*d)
	if err != nil {
		return err
	}
	report, err := i.TPM.Report(table)
	if err != nil {
		return err
	}
	return i.Disks.WriteReport(*d, system, report)
}

// Table implements Disks.
func (localDisks) Table(d install.Disk) ([]byte, error) {
	f, err := os.Open(filepath.Join("/dev", d.Name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	system, err := install.Look("/dev", d.Name)
	if err != nil {
		return nil, err
	}
	return install.ReadTable(f, system.Sector)
}

// WriteReport implements Disks.
func (localDisks) WriteReport(d install.Disk, i *install.Installed, r *wire.InstallReport) error {
	if err := on(d, (*install.Device).Reread); err != nil { // the kernel knows only the former partitions
		return err
	}
	if err := machine.MountFAT(i.ESP(), espDir, 0); err != nil {
		return err
	}
	return errors.Join(install.WriteReport(espDir, r), machine.Unmount(espDir, false))
}

// reportedPCRs are the PCRs that show which programs firmware started, and with which command line.
var reportedPCRs = []uint32{4, 11, 12}

// Report implements TPM.
func (localTPM) Report(table []byte) (*wire.InstallReport, error) {
	log, err := os.ReadFile(eventlog.Path)
	if err != nil {
		return nil, fmt.Errorf("the firmware's event log: %w", err)
	}
	t, err := identity.Open(machine.TPMPath)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(context.Background(), reportTime)
	defer stop()
	r, err := quoteTable(ctx, t, table, log)
	return r, errors.Join(err, t.Close())
}

// quoteTable makes the report. Like the agent later, it makes the IAK with the first default
// algorithm that the TPM supports.
func quoteTable(ctx context.Context, t *identity.TPM, table, log []byte) (*wire.InstallReport, error) {
	bank, err := identity.BestBank(ctx, t)
	if err != nil {
		return nil, err
	}
	hash, err := bank.Hash()
	if err != nil {
		return nil, err
	}
	events := slices.DeleteFunc(eventlog.Read(log, bank).Events, func(e eventlog.Event) bool {
		return e.Type == eventlog.NoAction || !slices.Contains(reportedPCRs, e.PCR)
	})
	short := eventlog.Encode(events, bank, hash)
	var failed error
	for _, a := range []identity.Algorithm{identity.P256, identity.RSA2048} {
		q, err := identity.LoadQuote(ctx, t, identity.Options{Algorithm: a}, wire.InstallQualifying(table, short))
		if err == nil && q.Bank != bank {
			return nil, errors.New("the TPM's PCR banks changed")
		}
		if err == nil {
			return &wire.InstallReport{Table: table, Bank: uint16(bank), PCRs: q.PCRs, Attest: q.Attest, Signature: q.Signature, EventLog: short}, nil
		}
		failed = errors.Join(failed, err)
	}
	return nil, failed
}
