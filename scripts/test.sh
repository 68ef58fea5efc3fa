#!/bin/sh
# All tests with the race detector (which needs cgo), the build without it, the
# emulated machines, and each fuzz target for a moment. What runs in an emulated
# machine is built without the detector, and making images with it takes minutes,
# so it is left out there.
set -eu
cd "$(dirname "$0")/.."
make -s build
# shellcheck disable=SC2046 # a list
CGO_ENABLED=1 go test -race -timeout 15m $(go list ./... | grep -v '/internal/qemu$') "$@"
go test -timeout 20m ./internal/qemu "$@"
./scripts/fuzz.sh "${FUZZTIME:-3s}"
