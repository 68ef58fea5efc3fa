#!/bin/sh
# Quick check while you work: formatting, vet, staticcheck, the import rules of internal/walls, and
# the short tests. It installs nothing, and skips tests whose programs are not installed. "make test"
# runs all tests.
set -eu
cd "$(dirname "$0")/.."
mkdir -p build/check
# lint.sh often uses only one processor, and the tests often wait. So both run at the same time. A
# failure of lint.sh is printed at once.
setsid sh -c './scripts/lint.sh >build/check/lint.log 2>&1 || { cat build/check/lint.log; exit 1; }' >&2 &
lint=$!
trap 'kill -- "-$lint" 2>/dev/null' EXIT # ends lint.sh if the tests fail
trap 'exit 130' INT TERM
# Many tests wait, so one package more than there are processors runs at once. The packages that
# take longest come first.
go run ./internal/testlog -dir build/check -stage check -- go test -p $(($(getconf _NPROCESSORS_ONLN) + 1)) -json -short -vet=off -timeout 5m \
	gangway/cmd/gangway gangway/hub/api ./...
wait "$lint"
trap - EXIT
