#!/bin/sh
# Prints the version, the commit and the commit's date of this checkout. With the argument ldflags, it
# prints the linker flags that set these values in a program. Examples of versions:
#
#	1.2.0                                 the tag v1.2.0
#	1.2.0+5.g0123456789ab                 five commits after the tag v1.2.0
#	0.0.0+20261129080000.g0123456789ab    no tag: the version has the commit's date
#
# If the checkout has uncommitted changes, the version ends with ".dirty" ("+dirty" directly after a
# tag). The environment variable VERSION replaces the version, and SOURCE_DATE_EPOCH the date. Outside
# a Git checkout, the script prints nothing.
set -eu
cd "$(dirname "$0")/.."
commit=$(git rev-parse --verify --quiet HEAD 2>/dev/null) || exit 0
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
at() { date -u -d "@$epoch" "+$1" 2>/dev/null || date -u -r "$epoch" "+$1"; }

# Fix the length of the hash, because the length that Git chooses depends on the clone.
if tag=$(git describe --tags --match 'v[0-9]*' --abbrev=12 2>/dev/null); then
	version=$(echo "$tag" | sed -E 's/^v//; s/-([0-9]+)-g([0-9a-f]+)$/+\1.g\2/')
else
	version="0.0.0+$(at %Y%m%d%H%M%S).g$(git rev-parse --short=12 HEAD)"
fi
if [ -n "$(git status --porcelain --untracked-files=no)" ]; then
	case $version in
	*+*) version=$version.dirty ;;
	*) version=$version+dirty ;;
	esac
fi
version=${VERSION:-$version}
date=$(at %Y-%m-%dT%H:%M:%SZ)

if [ "${1:-}" = ldflags ]; then
	package=gangway/internal/version
	echo "-X $package.version=$version -X $package.commit=$commit -X $package.date=$date"
else
	echo "$version $commit $date"
fi
