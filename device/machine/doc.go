// Package machine does what PID 1 has to do with the machine: mounts, kernel modules, processes,
// the watchdog, the TPM, power.
//
// It decides nothing about Gangway; packages installer and system do.
package machine
