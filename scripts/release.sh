#!/bin/sh
# Writes a release to a folder: scripts/release.sh [FOLDER [OPTION...]]. The default folder is
# build/release. The options are those of internal/release.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
out=${1:-build/release}
[ $# -eq 0 ] || shift
case $out in
/*) ;;
*) out=$root/$out ;;
esac
described=$(./scripts/version.sh)
if [ -z "$described" ]; then
	echo "This folder is not a Git checkout: run make release in a clone of the repository." >&2
	exit 1
fi
# shellcheck disable=SC2086 # splits version, commit and date
set -- $described "$@"
version=$1 commit=$2 date=$3
shift 3
case $version in
*dirty) echo "Warning: the checkout has uncommitted changes, so nobody else can reproduce this release. Commit them first." >&2 ;;
esac
cd internal/release
# The user's own GOFLAGS must not affect a release.
GOFLAGS="" ${GO:-go} run . -root "$root" -out "$out" -version "$version" -commit "$commit" -date "$date" "$@"
echo "Release $version is in $out" >&2
