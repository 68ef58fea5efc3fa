// Package machine does the work of a machine's first process (PID 1): mounts, kernel modules,
// processes, the watchdog, the TPM, power.
//
// It makes no decisions about Gangway; the packages installer and system make them.
package machine
