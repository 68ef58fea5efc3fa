#!/bin/sh
# If this system's curl cannot use OpenSSL's providers (before 8.12), unpacks a newer
# curl from Debian's backports into build/curl. That curl is for a test; nothing of it
# is installed on this system.
#
#	build/curl/curl         runs it
#	build/curl/usr/         what the packages hold
set -eu
cd "$(dirname "$0")/.."
[ ! -e build/curl/curl ] || exit 0
version=$(curl --version 2>/dev/null | sed -n '1s/^curl \([0-9]*\)\.\([0-9]*\)\..*/\1 \2/p')
# shellcheck disable=SC2086 # two words
set -- ${version:-0 0}
if [ "$1" -gt 8 ] || { [ "$1" = 8 ] && [ "$2" -ge 12 ]; }; then
	exit 0
fi
# shellcheck disable=SC1091
release=$(. /etc/os-release 2>/dev/null && echo "${ID:-} ${VERSION_CODENAME:-}")
if [ "$release" != "debian bookworm" ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "No curl of 8.12 or later: this script knows Debian 12's backports alone." >&2
	exit 0
fi
rm -rf build/curl build/curl.new
mkdir -p build/curl.new/lists/partial build/curl.new/cache/archives/partial
cd build/curl.new

# apt uses lists and archives in a separate folder, so that the system's stay unchanged.
key=/usr/share/keyrings/debian-archive-keyring.gpg
mirror=$(sed -n 's/^URIs: *\(http[^ ]*\/debian\)\/*$/\1/p; s/^deb .*\(http[^ ]*\/debian\)\/* .*/\1/p' \
	/etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -n 1)
echo "deb [signed-by=$key] ${mirror:-http://deb.debian.org/debian} bookworm-backports main" >sources.list
apt() {
	apt-get -qq -o Dir::Etc::sourcelist="$PWD/sources.list" -o Dir::Etc::sourceparts=- -o APT::Sandbox::User=root \
		-o Dir::State::lists="$PWD/lists" -o Dir::Cache="$PWD/cache" "$@" >&2
}
if ! { apt update && apt download curl/bookworm-backports libcurl4/bookworm-backports; }; then
	echo "No curl of 8.12 or later: Debian's backports were not reached. The test that needs it is skipped." >&2
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
