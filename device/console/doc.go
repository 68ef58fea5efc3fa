// Package console is the small full-screen program for a person in front of a machine, or at its
// serial line: it shows the machine's network, TPM, hub, identity, revision, log and claim code,
// and restarts the machine, changes its network settings or wipes it.
//
// It shows no secret, and has neither a shell nor a way to read a file of the person's choice. What
// it offers depends on package access. What it does to the machine, a Machine does for it.
//
// It works on terminals of at least 40 columns and 12 lines, without colours, and with a keyboard
// only. All text of others, such as a nick from the hub or a line of a log, is cleaned of escapes
// before it is drawn.
package console
