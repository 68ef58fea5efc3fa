// Package machine does the work of a machine's first process (PID 1): mounts, kernel modules,
// processes, the watchdog, the TPM, power.
//
// It decides nothing itself: the installer and system packages decide when to call it.
package machine
