// Package swtpm makes and runs software TPMs. They behave like real TPM 2.0 devices: each has
// its own endorsement key and a certificate from a TPM maker. Tests and `gangway demo` use
// them; a production hub or device never does.
//
// New makes and starts a TPM; it uses the programs swtpm and swtpm_setup. A TPM's whole state
// is in its folder, so the TPM survives the process:
//
//	DIR/state/            the TPM's memory; removing it destroys the TPM
//	DIR/made              exists once the TPM is completely made
//	DIR/*.conf, .options  the configuration of swtpm_setup
//	DIR/tpm.sock          the command socket, while the TPM runs
//	DIR/ca/               the maker's CA, unless Options.Maker names another folder
//
// Several TPMs may share a maker's folder, even if they are made at the same time.
package swtpm
