// Package console is the full-screen program for a person at a machine's screen or serial port. It
// shows the machine's network, TPM, hub, identity, revision, log and claim code. It can restart the
// machine, change its network settings and wipe it.
//
// The console shows no secret. It has no shell, and offers no way to read an arbitrary file.
// Package access decides which actions the console offers, and a Machine carries them out.
//
// The console works on terminals of at least 40 columns and 12 lines, without colours, and with
// only a keyboard. Text from elsewhere, such as a nick from the hub or a log line, may contain
// escape sequences, which the console removes before it draws the text.
package console
