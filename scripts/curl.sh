#!/bin/sh
# A test needs a curl that can use OpenSSL's providers (8.12 or later). If this system's curl is
# older, this script unpacks a newer curl from Debian's backports into build/curl. It installs
# nothing on this system.
#
#	build/curl/curl         a script that runs this curl
#	build/curl/usr/         the contents of the packages
set -eu
cd "$(dirname "$0")/.."
[ ! -e build/curl/curl ] || exit 0
version=$(curl --version 2>/dev/null | sed -n '1s/^curl \([0-9]*\)\.\([0-9]*\)\..*/\1 \2/p')
# shellcheck disable=SC2086 # splits the major and the minor version
set -- ${version:-0 0}
if [ "$1" -gt 8 ] || { [ "$1" = 8 ] && [ "$2" -ge 12 ]; }; then
	exit 0
fi
# shellcheck disable=SC1091
release=$(. /etc/os-release 2>/dev/null && echo "${ID:-} ${VERSION_CODENAME:-}")
if [ "$release" != "debian bookworm" ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "No curl 8.12 or later: this script can download it only on Debian 12. The test that needs it is skipped." >&2
	exit 0
fi
rm -rf build/curl build/curl.new
mkdir -p build/curl.new/lists/partial build/curl.new/cache/archives/partial
cd build/curl.new

# Use separate folders for apt's lists and archives, so that those of the system do not change.
key=/usr/share/keyrings/debian-archive-keyring.gpg
mirror=$(sed -n 's/^URIs: *\(http[^ ]*\/debian\)\/*$/\1/p; s/^deb .*\(http[^ ]*\/debian\)\/* .*/\1/p' \
	/etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -n 1)
echo "deb [signed-by=$key] ${mirror:-http://deb.debian.org/debian} bookworm-backports main" >sources.list
apt() {
	apt-get -qq -o Dir::Etc::sourcelist="$PWD/sources.list" -o Dir::Etc::sourceparts=- -o APT::Sandbox::User=root \
		-o Dir::State::lists="$PWD/lists" -o Dir::Cache="$PWD/cache" "$@" >&2
}
if ! { apt update && apt download curl/bookworm-backports libcurl4/bookworm-backports; }; then
	echo "No curl 8.12 or later: downloading it from Debian's backports failed. The test that needs it is skipped." >&2
	exit 0
fi
echo "Unpacking $(echo curl_*.deb) into build/curl" >&2
for deb in ./*.deb; do
	dpkg-deb -x "$deb" .
done
rm -r ./*.deb lists cache sources.list
cat >curl <<'END'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
LD_LIBRARY_PATH=$(echo "$here"/usr/lib/*-linux-gnu) exec "$here/usr/bin/curl" "$@"
END
chmod +x curl
cd ..
mv curl.new curl
