// Package machine does the work of PID 1 with the machine below it: mounts,
// kernel modules, processes, the watchdog, the TPM, power.
//
// It decides nothing about Gangway; packages installer and system do.
package machine
