#!/bin/sh
# Makes the terminal recording docs/recordings/installer.cast: how a person builds an installer image
# with a hub. It runs the real commands with a temporary hub. To play the recording, run
#
#	asciinema play docs/recordings/installer.cast
set -eu
cd "$(dirname "$0")/.."

./scripts/install.sh
programs=$(mktemp -d)
trap 'rm -rf "$programs"' EXIT
CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$programs/" ./cmd/...
"$programs/gangway" image fetch --dir build/installer-kernel
mkdir -p docs/recordings
go run ./internal/cast/record "$programs" build/installer-kernel docs/recordings/installer.cast
go test -count=1 ./internal/cast
