#!/bin/sh
# Tests check the alert rules in contrib/prometheus with promtool. If promtool is not installed, this
# script unpacks Debian's package prometheus into build/promtool. It installs nothing on this system,
# because the package would start a service.
#
#	build/promtool/promtool
set -eu
cd "$(dirname "$0")/.."
if command -v promtool >/dev/null 2>&1 || [ -e build/promtool/promtool ]; then
	exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
	echo "No promtool: install Prometheus. The tests that need it are skipped." >&2
	exit 0
fi
rm -rf build/promtool.new
mkdir -p build/promtool.new
cd build/promtool.new
download() { apt-get -qq -o APT::Sandbox::User=root download prometheus >&2; }
sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo"
if ! { download || { $sudo apt-get update -qq >&2 && download; }; }; then
	echo "No promtool: downloading Debian's package prometheus failed. The tests that need it are skipped." >&2
	exit 0
fi
echo "Unpacking promtool from $(echo prometheus_*.deb) into build/promtool" >&2
dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool
mv usr/bin/promtool .
rm -r usr ./*.deb
cd ..
rm -rf promtool
mv promtool.new promtool
