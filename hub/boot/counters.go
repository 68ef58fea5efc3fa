package boot

import (
	"fmt"

	"gangway/hub/evidence"
	"gangway/tcg"
)

// Counters are what a TPM attests of itself, which only grows.
type Counters struct {
	tcg.ClockInfo
	Firmware evidence.Firmware
}

// Rollback says, in a sentence, what went backwards between two attested
// structures of one TPM; empty where nothing did. A reset count goes back when
// the TPM is cleared, which its owner knows; a clock may lose some minutes when
// the power fails, and then says that it is not safe.
func Rollback(before, after Counters) string {
	switch {
	case after.Firmware < before.Firmware:
		return fmt.Sprintf("The TPM's firmware went back from %v to %v.", before.Firmware, after.Firmware)
	case after.ResetCount < before.ResetCount:
		return fmt.Sprintf("The TPM's reset count went back from %d to %d: it was cleared, or an older state of it was restored.", before.ResetCount, after.ResetCount)
	case after.ResetCount == before.ResetCount && after.RestartCount < before.RestartCount:
		return fmt.Sprintf("The TPM's restart count went back from %d to %d without a reset.", before.RestartCount, after.RestartCount)
	case after.ResetCount == before.ResetCount && after.RestartCount == before.RestartCount && after.Safe && before.Safe && after.Clock < before.Clock:
		return "The TPM's clock went back without a reset."
	}
	return ""
}
