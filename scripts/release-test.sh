#!/bin/sh
# Checks that releases are reproducible: makes a release of the last commit twice and compares the
# hashes of all files. The second run has another folder, build cache, umask, time zone and locale. The
# releases have the package gangway-signer if gcc is installed on amd64.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'chmod -R u+w "$work" && rm -rf "$work"' EXIT
git clone -q . "$work/first"
mkdir -p "$work/another place"
git clone -q . "$work/another place/second"

signer=""
if command -v gcc >/dev/null 2>&1 && [ "$(uname -m)" = x86_64 ]; then
	signer=-signer
fi
# shellcheck disable=SC2086 # no argument if it is empty
"$work/first/scripts/release.sh" "$work/one" $signer
(
	umask 077
	export GOCACHE="$work/cache" TZ=Asia/Tokyo LC_ALL=C
	# shellcheck disable=SC2086 # no argument if it is empty
	"$work/another place/second/scripts/release.sh" "$work/two" $signer
)
(cd "$work/one" && sha256sum --quiet -c SHA256SUMS)
if ! diff "$work/one/SHA256SUMS" "$work/two/SHA256SUMS"; then
	echo "FAILED: the two releases differ" >&2
	exit 1
fi
cat "$work/one/SHA256SUMS"
echo "PASSED: the two releases have the same hashes"
