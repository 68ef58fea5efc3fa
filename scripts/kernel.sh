#!/bin/sh
# Unpacks Debian's cloud kernel and its modules into build/kernel, for the
# emulated machines of the tests. Nothing of it is installed on this system.
#
#	build/kernel/vmlinuz    the kernel
#	build/kernel/modules/   its modules, modules.builtin among them
#	build/kernel/package    the package's name: name_version_architecture.deb
set -eu
cd "$(dirname "$0")/.."
[ ! -e build/kernel/package ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
	echo "No kernel for the emulated machines: this script knows Debian alone." >&2
	exit 0
fi
rm -rf build/kernel build/kernel.new
mkdir -p build/kernel.new
cd build/kernel.new

fetch() { # what the meta package stands for today
	package=$(apt-cache depends --important linux-image-cloud-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-.*\)/\1/p' | head -n 1)
	[ -n "$package" ] && apt-get download -qq "$package" >&2
}
if ! fetch; then # the lists are old, or there are none
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
