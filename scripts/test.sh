#!/bin/sh
# All tests with the race detector (which needs cgo), the build without it,
# and each fuzz target for a moment.
set -eu
cd "$(dirname "$0")/.."
make -s build
CGO_ENABLED=1 go test -race -timeout 15m ./... "$@"
./scripts/fuzz.sh "${FUZZTIME:-3s}"
