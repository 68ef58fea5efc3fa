#!/bin/sh
# Tests the Debian packages in an emulated machine that runs Debian with systemd. TestPackages in
# internal/qemu starts the machine. The packages of the previous version are made from the source of
# the commit FROM (default: the commit below), with a low version number and other files in
# /etc/default.
#
#	build/packages/old, new        the packages of both versions
#	build/packages/gangway-fleet   puts the hub under load while the packages are upgraded
#	build/packages/debian          the machine's disk, made only if missing: delete it to get a new one
set -eu
cd "$(dirname "$0")/.."
go=${GO:-go}
from=${FROM:-9b7cbcc2}
out=build/packages
mkdir -p $out
from=$(git rev-parse --verify --quiet "$from^{commit}") || {
	echo "The repository does not have the commit $from, whose packages are upgraded: fetch it (a shallow clone does not have it), or name another commit with FROM=" >&2
	exit 1
}
if ! command -v mmdebstrap >/dev/null 2>&1 || ! command -v genext2fs >/dev/null 2>&1; then
	echo "Installing: mmdebstrap genext2fs" >&2
	sudo=""
	[ "$(id -u)" = 0 ] || sudo="sudo"
	DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends mmdebstrap genext2fs >&2
fi

if [ ! -e $out/debian ]; then
	echo "Making a Debian root in $out/debian" >&2
	rm -rf $out/debian.new
	mkdir $out/debian.new
	mmdebstrap --quiet --variant=minbase --format=ext2 \
		--include=systemd-sysv,udev,adduser,tpm-udev,ca-certificates,curl,busybox-static,softhsm2 \
		bookworm $out/debian.new/root.img >&2
	/usr/sbin/debugfs -R "dump /usr/bin/busybox $out/debian.new/busybox" $out/debian.new/root.img 2>/dev/null
	[ -s $out/debian.new/busybox ] || /usr/sbin/debugfs -R "dump /bin/busybox $out/debian.new/busybox" $out/debian.new/root.img 2>/dev/null
	/usr/sbin/tune2fs -O extents $out/debian.new/root.img >/dev/null # as on Debian's own file systems: the hub reserves disk space
	truncate -s 1G $out/debian.new/root.img
	/usr/sbin/e2fsck -fp $out/debian.new/root.img >/dev/null || [ $? -eq 1 ]
	/usr/sbin/resize2fs $out/debian.new/root.img >/dev/null 2>&1
	mv $out/debian.new $out/debian
fi

./scripts/release.sh $out/new -debs-only -signer
$go build -trimpath -buildvcs=false -o $out/gangway-fleet ./cmd/gangway-fleet

# The packages of the earlier commit, made by the release program of that commit.
if [ "$(cat $out/old/commit 2>/dev/null)" != "$from" ]; then
	rm -rf $out/from $out/old
	mkdir $out/from $out/old
	git archive "$from" | tar -x -C $out/from
	date=$(TZ=UTC git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ "$from")
	(cd $out/from/internal/release && GOFLAGS="" $go run . -root ../.. -out ../../../old.release \
		-version 0.0.0-previous -commit "$from" -date "$date" -debs-only)
	for deb in "$out"/old.release/*.deb; do
		rm -rf $out/unpacked
		dpkg-deb -R "$deb" $out/unpacked
		for file in "$out"/unpacked/etc/default/*; do
			echo "# This line is the previous version's." >>"$file"
		done
		dpkg-deb --root-owner-group -Zgzip -z1 -b $out/unpacked "$out/old/$(basename "$deb")" >/dev/null
	done
	rm -rf $out/unpacked $out/old.release $out/from
	echo "$from" >$out/old/commit
fi

GANGWAY_PACKAGES=$PWD/$out $go test -count=1 -v -timeout 245m -run '^TestPackages$' ./internal/qemu
