#!/bin/sh
# All tests with the race detector (which needs cgo), those that it would only
# make slow without it, the emulated machines, and each fuzz target for a moment.
# What runs in an emulated machine is built without the detector, and making
# images with it takes minutes, so it is left out there.
set -eu
cd "$(dirname "$0")/.."
make -s build
# shellcheck disable=SC2046 # a list
CGO_ENABLED=1 go test -race -timeout 15m $(go list ./... | grep -v '/internal/qemu$') "$@"
(cd internal/release && go test -timeout 15m ./...)

# Tests whose first line is race.Skip(t).
skipped=$(grep -rh --include='*_test.go' -B1 'race\.Skip(t)' . | sed -n 's/^func \(Test[A-Za-z0-9]*\)(.*/\1/p')
if [ "$(echo "$skipped" | wc -l)" -ne "$(grep -r --include='*_test.go' 'race\.Skip(t)' . | wc -l)" ]; then
	echo "race.Skip(t) is not the first line of a test" >&2
	exit 1
fi
# shellcheck disable=SC2046,SC2086 # lists
go test -timeout 15m -run "^($(echo $skipped | tr ' ' '|'))\$" $(grep -rl --include='*_test.go' 'race\.Skip(t)' . | xargs -n 1 dirname | sort -u) "$@"

echo "Emulated machines; they say what they do in build/qemu.log" >&2
if ! go test -v -timeout 20m ./internal/qemu "$@" >build/qemu.log 2>&1; then
	cat build/qemu.log
	exit 1
fi
grep -E '^(--- |ok)|: (from|the image has|the agent has) ' build/qemu.log # results, and seconds

./scripts/fuzz.sh "${FUZZTIME:-3s}"
