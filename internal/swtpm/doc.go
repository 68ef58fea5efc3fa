// Package swtpm makes and runs software TPMs: real TPM 2.0 devices in all but
// the silicon, each with its own endorsement key and a certificate from a
// maker that lives in a folder of the caller's choice. Tests and
// `gangway demo` use them; nothing of a production hub or device does.
//
// It drives the programs swtpm and swtpm_setup. All that a TPM is lies in its
// folder, so it survives the process:
//
//	DIR/state/          the TPM's memory; removing it destroys the TPM
//	DIR/made            present once manufacturing was complete
//	DIR/*.conf, .options  what swtpm_setup was told
//	DIR/tpm.sock        the command socket, while it runs
//	DIR/ca/             the maker, unless Options.Maker names another folder
//
// Several TPMs may share a maker's folder, also when they are made at once.
package swtpm
