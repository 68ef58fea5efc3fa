// Package qemu runs emulated machines for tests: x86-64 with UEFI (OVMF), a TPM (internal/swtpm),
// disks, a serial console and a network. On this network, the computer that runs the test has the
// address 10.0.2.2. The package needs no privileges and no KVM. The processor is emulated too, so a
// boot to user space takes about 12 seconds of one core.
//
// Call Start, then WaitFor with the lines that the console must print. A machine and its TPM end
// when the context ends, Stop is called or the test process ends. The machine's folder has these
// files:
//
//	DIR/console.log   what the machine printed on its serial console, with seconds
//	DIR/vars.fd       the firmware's variables, which the next boot uses
//	DIR/*.qmp         the socket that controls the machine, while it runs
package qemu
