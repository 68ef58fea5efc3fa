#!/bin/sh
# Runs all tests, in stages: lint; all packages with the race detector (which needs
# cgo); without it, the tests that the race detector would only make slow; the
# emulated machines; and each fuzz target for a moment. At the end it prints how
# long each stage took. Arguments go to every "go test".
#
# The tests with emulated machines run without the race detector: the programs in
# a machine are built without it, and making images with it takes minutes.
set -eu
cd "$(dirname "$0")/.."
make -s build
go build -o build/testlog ./internal/testlog
rm -rf build/times
stage() { # stage NAME COMMAND...
	name="$1"
	shift
	./build/testlog -stage "$name" -- "$@"
}
stage lint ./scripts/lint.sh

# shellcheck disable=SC2046 # a list
CGO_ENABLED=1 stage race go test -json -vet=off -race -timeout 15m $(go list ./... | grep -v '/internal/qemu$') "$@"
# The program that makes releases is a separate module.
stage releases sh -c 'cd internal/release && go test -json -timeout 15m ./...'

# The tests whose first line is race.Skip(t).
skipped=$(grep -rh --include='*_test.go' -B1 'race\.Skip(t)' . | sed -n 's/^func \(Test[A-Za-z0-9]*\)(.*/\1/p')
if [ "$(echo "$skipped" | wc -l)" -ne "$(grep -r --include='*_test.go' 'race\.Skip(t)' . | wc -l)" ]; then
	echo "race.Skip(t) is not the first line of a test" >&2
	exit 1
fi
# shellcheck disable=SC2046,SC2086 # lists
stage without-race go test -json -vet=off -timeout 15m -run "^($(echo $skipped | tr ' ' '|'))\$" \
	$(grep -rl --include='*_test.go' 'race\.Skip(t)' . | xargs -n 1 dirname | sort -u) "$@"

echo "Emulated machines; they say what they do in build/qemu.log" >&2
./build/testlog -stage machines -log build/qemu.log -- go test -json -vet=off -timeout 20m ./internal/qemu "$@"
grep -E '^(--- |ok)|: (from|the image has|the agent has) ' build/qemu.log # results, and seconds

stage fuzz ./scripts/fuzz.sh "${FUZZTIME:-3s}"
./build/testlog -summary
