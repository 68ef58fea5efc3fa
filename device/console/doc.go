// Package console is the full-screen program for a person at a machine's screen or serial port. It
// shows the machine's network, TPM, hub, identity, revision, log and claim code. It can restart
// the machine, change its network settings and wipe it.
//
// The console shows no secret. It has no shell, and a person cannot choose a file to read. Package
// access decides which actions the console offers. A Machine carries out the actions.
//
// The console works on terminals of at least 40 columns and 12 lines, without colours, and with
// only a keyboard. A text from elsewhere, such as a nick from the hub or a log line, may contain
// escape sequences. The console removes them before it draws the text.
package console
