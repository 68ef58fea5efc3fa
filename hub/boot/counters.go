package boot

import (
	"fmt"

	"gangway/hub/evidence"
	"gangway/tcg"
)

// Counters has the attested counters and firmware version of a TPM. These values normally increase;
// see Rollback for the exceptions.
type Counters struct {
	tcg.ClockInfo
	Firmware evidence.Firmware
}

// Rollback returns a sentence about the counter that decreased between two attestations of one TPM,
// or "" if no counter decreased. The reset count also decreases if the owner clears the TPM. At a
// power failure, the TPM's clock may go back by some minutes. The TPM then attests that its clock
// is not safe, and Rollback ignores the clock.
func Rollback(before, after Counters) string {
	switch {
	case after.Firmware < before.Firmware:
		return fmt.Sprintf("The TPM's firmware version decreased from %v to %v.", before.Firmware, after.Firmware)
	case after.ResetCount < before.ResetCount:
		return fmt.Sprintf("The TPM's reset count decreased from %d to %d: the TPM was cleared, or an older state of the TPM was restored.", before.ResetCount, after.ResetCount)
	case after.ResetCount == before.ResetCount && after.RestartCount < before.RestartCount:
		return fmt.Sprintf("The TPM's restart count decreased from %d to %d without a reset.", before.RestartCount, after.RestartCount)
	case after.ResetCount == before.ResetCount && after.RestartCount == before.RestartCount && after.Safe && before.Safe && after.Clock < before.Clock:
		return "The TPM's clock was set back without a reset."
	}
	return ""
}
