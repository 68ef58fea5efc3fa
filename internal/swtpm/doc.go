// Package swtpm makes and runs software TPMs. A software TPM behaves like a real TPM 2.0: it has
// its own endorsement key and a certificate from a TPM maker. Tests and `gangway demo` use software
// TPMs; a hub or device in production never does.
//
// New makes and starts a TPM with the programs swtpm and swtpm_setup. A TPM's whole state is in its
// folder, so the TPM survives the process:
//
//	DIR/state/            the TPM's memory; removing it destroys the TPM
//	DIR/made              exists once the TPM is completely made
//	DIR/*.conf, .options  the configuration of swtpm_setup
//	DIR/tpm.sock          the command socket, while the TPM runs
//	DIR/ca/               the maker's CA, unless Options.Maker names another folder
//
// Several TPMs may use the same maker's folder, even if they are made at the same time.
package swtpm
