#!/bin/sh
# Quick check while you work: formatting, vet, staticcheck, the import rules of internal/walls, and
# the short tests. It installs nothing, and skips tests whose programs are not installed. "make test"
# runs all tests.
set -eu
cd "$(dirname "$0")/.."
./scripts/lint.sh
go run ./internal/testlog -dir build/check -stage check -- go test -json -short -vet=off -timeout 5m ./...
