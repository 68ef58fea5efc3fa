#!/bin/sh
# Quick check while you work: formatting, vet, staticcheck, the import rules of internal/walls, and
# the short tests. It installs nothing, and skips tests whose programs are not installed. "make test"
# runs all tests.
set -eu
cd "$(dirname "$0")/.."
./scripts/lint.sh
# Many tests wait, so one package more than there are processors runs at once. The packages that
# take longest come first.
go run ./internal/testlog -dir build/check -stage check -- go test -p $(($(getconf _NPROCESSORS_ONLN) + 1)) -json -short -vet=off -timeout 5m \
	gangway/cmd/gangway gangway/hub/api ./...
