#!/bin/sh
# Unpacks Debian's cloud kernel and its modules into build/kernel, for the emulated machines of the
# tests. It does not install the kernel on this system.
#
#	build/kernel/vmlinuz    the kernel
#	build/kernel/modules/   its modules, and modules.builtin
#	build/kernel/package    the package's name: name_version_architecture.deb
set -eu
cd "$(dirname "$0")/.."
[ ! -e build/kernel/package ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
	echo "No kernel for emulated machines: this script can download it only on Debian. Tests with emulated machines are skipped." >&2
	exit 0
fi
rm -rf build/kernel build/kernel.new
mkdir -p build/kernel.new
cd build/kernel.new

fetch() { # downloads the package on which the meta package depends now
	package=$(apt-cache depends --important linux-image-cloud-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-.*\)/\1/p' | head -n 1)
	[ -n "$package" ] && apt-get download -qq "$package" >&2
}
if ! fetch; then # the package lists are old or missing
	sudo=""
	[ "$(id -u)" = 0 ] || sudo="sudo"
	$sudo apt-get update -qq >&2
	fetch
fi
echo "Unpacking $package into build/kernel" >&2
deb=$(ls ./*.deb)
dpkg-deb -x "$deb" unpacked
mv unpacked/boot/vmlinuz-* vmlinuz
mv unpacked/lib/modules/* modules
rm -r unpacked "$deb"
echo "${deb#./}" >package
cd ..
mv kernel.new kernel
