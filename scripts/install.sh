#!/bin/sh
# Installs the Debian packages that the tests need and that are missing. With the argument demo, it
# installs what the demonstration needs. It prints what it does, and does nothing if everything is
# installed.
set -eu
cd "$(dirname "$0")/.."

want=""
need() { command -v "$1" >/dev/null 2>&1 || want="$want $2"; }
needfile() { [ -e "$1" ] || want="$want $2"; }
need swtpm swtpm
need swtpm_setup swtpm-tools
need certtool gnutls-bin
if [ "${1:-all}" != demo ]; then
	need openssl openssl
	need gcc gcc               # the race detector's
	need cabextract cabextract # unpacks Microsoft's cabinet of makers' certificates
	need gcab gcab             # makes cabinets
	need chromium chromium     # looks at the web page
	# The emulator for machines, its firmware, and what the machines boot.
	need qemu-system-x86_64 qemu-system-x86
	needfile /usr/share/OVMF/OVMF_CODE_4M.fd ovmf
	needfile /usr/lib/systemd/boot/efi/linuxx64.efi.stub systemd-boot-efi
	need tpm2_eventlog tpm2-tools
	need curl curl
	need jq jq # examples/onboard.sh is made of these
	need xxd xxd
	needfile /usr/bin/python3 python3 # examples/device.py is made of these
	needfile /usr/lib/python3/dist-packages/cryptography python3-cryptography
	needfile /usr/lib/python3/dist-packages/tpm2_pytss python3-tpm2-pytss
	need shellcheck shellcheck
	need haproxy haproxy # in front of a hub
	need systemd-analyze systemd # checks the unit files in contrib
	need sqlite3 sqlite3 # makes the backup of docs/operations.md
	needfile "/usr/lib/$(uname -m)-linux-gnu/ossl-modules/tpm2.so" tpm2-openssl
	# A resource manager for TPMs that are used without a kernel's resource manager.
	needfile /usr/sbin/tpm2-abrmd tpm2-abrmd
	needfile "/usr/lib/$(uname -m)-linux-gnu/libtss2-tcti-tabrmd.so.0" libtss2-tcti-tabrmd0
	need dbus-daemon dbus-daemon
	need cpio cpio # reads what we write
	need mcopy mtools
	need zbarimg zbar-tools # reads the code on a machine's screen
	needfile /usr/sbin/fsck.fat dosfstools
	needfile /usr/sbin/sgdisk gdisk
	needfile /usr/sbin/mke2fs e2fsprogs
	need osslsigncode osslsigncode # signs images for Secure Boot
	needfile /usr/sbin/cryptsetup cryptsetup-bin # reads the disks that we encrypt
fi
# The kernels and a newer curl are only unpacked, not installed.
unpacked() {
	[ "${1:-all}" != demo ] || return 0
	./scripts/kernel.sh
	./scripts/curl.sh
	# The kernel for installer images, which runs on machines of all kinds.
	[ -n "${GANGWAY_INSTALLER_KERNEL:-}" ] || ! command -v apt-get >/dev/null 2>&1 ||
		go run ./cmd/gangway image fetch --dir build/installer-kernel
}

if ! command -v go >/dev/null 2>&1; then
	echo "Go is needed, of the version in go.mod: see https://go.dev/dl/" >&2
	exit 1
fi

if [ -z "$want" ]; then
	unpacked "$@"
	exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
	echo "Please install:$want" >&2
	exit 1
fi
sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo"
echo "Installing:$want" >&2
$sudo apt-get update -qq >&2
# shellcheck disable=SC2086 # a list
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $want >&2
unpacked "$@"
