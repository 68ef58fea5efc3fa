// Package machine is what the first process does with the machine below it:
// mounts, kernel modules, processes, the watchdog, the TPM, power.
//
// It decides nothing about Gangway; packages installer and system do.
package machine
