#!/bin/sh
# Makes the recording, the pictures and the film of docs/tutorial.md from real runs. It installs the
# Debian packages that the tests and the film need.
set -eu
cd "$(dirname "$0")/.."

./scripts/install.sh
if ! command -v ffmpeg >/dev/null 2>&1; then
	sudo=""
	[ "$(id -u)" = 0 ] || sudo=sudo
	$sudo apt-get install -y --no-install-recommends ffmpeg
fi
GANGWAY_TUTORIAL=$PWD/docs
export GANGWAY_TUTORIAL
go test -count=1 -timeout 10m -run '^TestTutorialPictures$' ./internal/browser
for picture in docs/tutorial/*.png; do
	./scripts/small-picture.sh "$picture" "$picture" 1280
done
go test -count=1 -timeout 20m -run '^TestFilm$' ./internal/qemu
go test -count=1 ./internal/cast
