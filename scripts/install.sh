#!/bin/sh
# Installs the missing Debian packages that the tests need. With the argument demo, it installs only
# those that the demonstration needs. It prints the packages that it installs, and does nothing if
# all are installed.
set -eu
cd "$(dirname "$0")/.."

want=""   # packages that the tests need
faster="" # packages that only make the tests faster
need() { command -v "$1" >/dev/null 2>&1 || want="$want $2"; }
needfile() { [ -e "$1" ] || want="$want $2"; }
need swtpm swtpm
need swtpm_setup swtpm-tools
need certtool gnutls-bin
if [ "${1:-all}" != demo ]; then
	need openssl openssl
	need gcc gcc               # for the race detector
	need cabextract cabextract # unpacks the cabinet file with Microsoft's collection of TPM makers' certificates
	need gcab gcab             # makes cabinet files for tests
	# Chromium's headless shell opens the hub's pages; the browser does the same with more CPU time.
	if ! command -v chromium >/dev/null 2>&1; then
		needfile /usr/lib/chromium/chromium-headless-shell chromium-headless-shell
	elif [ ! -e /usr/lib/chromium/chromium-headless-shell ]; then
		faster=chromium-headless-shell
	fi
	# The emulator for machines, its firmware, and the boot stub for images.
	need qemu-system-x86_64 qemu-system-x86
	needfile /usr/share/OVMF/OVMF_CODE_4M.fd ovmf
	needfile /usr/lib/systemd/boot/efi/linuxx64.efi.stub systemd-boot-efi
	need tpm2_eventlog tpm2-tools
	need curl curl
	need jq jq # examples/onboard.sh uses jq, xxd and curl
	need xxd xxd
	needfile /usr/bin/python3 python3 # examples/device.py uses Python with these packages
	needfile /usr/lib/python3/dist-packages/cryptography python3-cryptography
	needfile /usr/lib/python3/dist-packages/tpm2_pytss python3-tpm2-pytss
	need shellcheck shellcheck
	need haproxy haproxy # a test runs it as the proxy before a hub
	need systemd-analyze systemd # checks the unit files in contrib
	needfile /usr/lib/systemd/systemd-measure systemd # computes PCR 11, to compare
	# The tests start a server of their own in a temporary folder.
	[ -n "$(ls -d /usr/lib/postgresql/*/bin/postgres 2>/dev/null)" ] || want="$want postgresql"
	needfile /usr/sbin/pgbouncer pgbouncer
	need sqlite3 sqlite3 # docs/operations.md uses it for the backup
	needfile "/usr/lib/$(uname -m)-linux-gnu/ossl-modules/tpm2.so" tpm2-openssl
	# A resource manager for software TPMs, which have no kernel driver with a resource manager.
	needfile /usr/sbin/tpm2-abrmd tpm2-abrmd
	needfile "/usr/lib/$(uname -m)-linux-gnu/libtss2-tcti-tabrmd.so.0" libtss2-tcti-tabrmd0
	need dbus-daemon dbus-daemon
	[ -z "${GANGWAY_DEPLOY:-}" ] || need skopeo skopeo # uploads the OCI image, for make deploy-test
	[ -z "${GANGWAY_HSM:-}" ] || need softhsm2-util softhsm2 # an HSM in software, for make hsm
	need cpio cpio # reads the initial file systems that the image builder writes
	need mcopy mtools
	need zbarimg zbar-tools # reads the claim code on a machine's screen
	needfile /usr/sbin/fsck.fat dosfstools
	needfile /usr/sbin/sgdisk gdisk
	needfile /usr/sbin/mke2fs e2fsprogs
	need osslsigncode osslsigncode # signs images for Secure Boot
	need sign-efi-sig-list efitools # signs a change of db without Gangway's own code
	needfile /usr/sbin/cryptsetup cryptsetup-bin # opens the disks that the installer encrypts
fi
# unpacked downloads the kernels, a newer curl and promtool into build/. It does not install them.
unpacked() {
	[ "${1:-all}" != demo ] || return 0
	./scripts/kernel.sh
	./scripts/curl.sh
	./scripts/promtool.sh
	# The kernel for installer images, with the drivers of real machines.
	[ -n "${GANGWAY_INSTALLER_KERNEL:-}" ] || ! command -v apt-get >/dev/null 2>&1 ||
		go run ./cmd/gangway image fetch --dir build/installer-kernel
}

if ! command -v go >/dev/null 2>&1; then
	echo "Go is not installed. Install the version in go.mod: see https://go.dev/dl/" >&2
	exit 1
fi

if [ -z "$want$faster" ]; then
	unpacked "$@"
	exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
	if [ -z "$want" ]; then
		unpacked "$@"
		exit 0
	fi
	echo "This script installs packages only on Debian. Install the programs of these Debian packages:$want" >&2
	exit 1
fi
sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo"
install() { DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "$@" >&2; }
echo "Installing:$want $faster" >&2
if [ -n "$want" ]; then
	$sudo apt-get update -qq >&2
	# shellcheck disable=SC2086 # a list
	install $want
fi
if [ -n "$faster" ]; then
	install "$faster" || { $sudo apt-get update -qq >&2 && install "$faster"; } || echo "The tests work without $faster, but take longer." >&2
fi
unpacked "$@"
