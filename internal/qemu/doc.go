// Package qemu runs emulated machines for tests: x86-64 with UEFI (OVMF), a
// TPM (internal/swtpm), disks, a serial console and a network on which this
// machine is 10.0.2.2. It needs no privileges and no KVM: the processor is
// emulated too, so a boot to user space takes about 12 seconds of a core.
//
// A machine ends with its context, by Stop, or with this process, and its
// TPM with it. What it left stays in its folder:
//
//	DIR/console.log   what it printed on its serial console, with seconds
//	DIR/vars.fd       the firmware's variables; the next boot finds them
//	DIR/*.qmp         the socket by which it is driven, while it runs
package qemu
