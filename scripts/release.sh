#!/bin/sh
# Writes a release to a folder (build/release): scripts/release.sh [FOLDER [OPTION...]].
# Options are those of internal/release.
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
	echo "A release is made in a Git checkout: this folder is not one." >&2
	exit 1
fi
# shellcheck disable=SC2086 # version, commit, date
set -- $described "$@"
version=$1 commit=$2 date=$3
shift 3
case $version in
*dirty) echo "Warning: the checkout has changes. Nobody else can make this release again." >&2 ;;
esac
cd internal/release
# The user's own GOFLAGS must not affect a release.
GOFLAGS="" ${GO:-go} run . -root "$root" -out "$out" -version "$version" -commit "$commit" -date "$date" "$@"
echo "Release $version is in $out" >&2
