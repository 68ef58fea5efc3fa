package measure

import "crypto"

// Texts that firmware extends into PCR 5 when a kernel takes over (PC Client Platform Firmware
// Profile, 10.4.4).
const (
	exitInvoked   = "Exit Boot Services Invocation"
	exitSucceeded = "Exit Boot Services Returned with Success"
)

// PCR5 returns the value that EDK II's firmware leaves in PCR 5 of this bank when a kernel runs.
// The argument `table` is the UEFI_GPT_DATA of the disk from which firmware started the first
// program. EDK II measures in this order: the separator, the partition table, and the two events
// with which the kernel ends the firmware's boot services (ExitBootServices). The value is
// different if a program extends PCR 5 itself, as systemd-boot does since version 254.
func PCR5(table []byte, bank crypto.Hash) []byte {
	value := make([]byte, bank.Size())
	for _, data := range [][]byte{{0, 0, 0, 0}, table, []byte(exitInvoked), []byte(exitSucceeded)} {
		value = sum(bank, value, sum(bank, data))
	}
	return value
}
