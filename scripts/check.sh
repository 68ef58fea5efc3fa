#!/bin/sh
# The quick check while you work: formatting, vet, staticcheck, the walls, and
# the short tests. It installs nothing; tests whose programs are not installed
# are skipped. "make test" is the whole truth.
set -eu
cd "$(dirname "$0")/.."
./scripts/lint.sh
go run ./internal/testlog -dir build/check -stage check -- go test -json -short -vet=off -timeout 5m ./...
