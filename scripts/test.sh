#!/bin/sh
# Runs all tests in stages, and prints at the end how long each stage took:
#
#	lint            scripts/lint.sh
#	race            all packages, with the race detector (which needs cgo)
#	machines        the tests with emulated machines; the next stages run at the same time
#	releases        internal/release and internal/deploy
#	without-race    the tests that call race.Skip: the race detector would only make them slow
#	fuzz            each fuzz target for 1 s
#
# The script passes its arguments to every "go test" of this module. The tests with emulated
# machines run without the race detector: the programs in a machine are built without it, and making
# images with it takes minutes.
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
# The tests whose first line is race.Skip(t).
skipped=$(grep -rh --include='*_test.go' -B1 'race\.Skip(t)' . | sed -n 's/^func \(Test[A-Za-z0-9]*\)(.*/\1/p')
if [ "$(echo "$skipped" | wc -l)" -ne "$(grep -r --include='*_test.go' 'race\.Skip(t)' . | wc -l)" ]; then
	echo "race.Skip(t) must be the first line of a test: move it there" >&2
	exit 1
fi
stage lint ./scripts/lint.sh

# The race detector makes SQLite, which is C code translated to Go, about ten times as slow, and
# cryptography several times as slow. It cannot find a race of ours in these packages: they only
# compute, or, like SQLite, they protect their memory by locks of the package sync, which the race
# detector sees. So only these packages are built without the race detector. A package that hands Go
# values from one goroutine to another with sync/atomic must not be in this list.
unraced=
for p in modernc.org/sqlite/lib modernc.org/libc/... golang.org/x/crypto/argon2 golang.org/x/crypto/blake2b compress/flate \
	crypto/internal/fips140/mlkem crypto/internal/fips140/sha3 crypto/internal/fips140/bigmod \
	crypto/internal/fips140/nistec/... crypto/internal/fips140/edwards25519/...; do
	unraced="$unraced -gcflags=$p=-race=false"
done

# Tests build programs. With cgo, which only the race detector needs, they would compile every package
# once more, so the tests run without CGO_ENABLED=1.
# Many tests wait, so one package more than there are processors runs at once. The packages that wait
# longest come first.
# shellcheck disable=SC2046,SC2086 # splits the lists
CGO_ENABLED=1 stage race go test $unraced -p $(($(getconf _NPROCESSORS_ONLN) + 1)) -exec 'env CGO_ENABLED=0' -json -vet=off -race -timeout 15m \
	gangway/internal/e2e gangway/internal/docs $(go list ./... | grep -v '/internal/qemu$') "$@"

# The machines wait more than they compute. The stages below run beside them, with less priority.
echo "Running the tests with emulated machines; their output is in build/qemu.log" >&2
setsid ./build/testlog -stage machines -log build/qemu.log -- go test -json -vet=off -timeout 20m ./internal/qemu "$@" &
machines=$!
trap 'kill -- "-$machines" 2>/dev/null' EXIT # ends the machines if a stage fails
trap 'exit 130' INT TERM

# The program that makes releases, and the tests of the files in contrib/compose and
# contrib/kubernetes, are separate modules.
stage releases nice sh -c 'cd internal/release && go test -json -vet=off -timeout 15m ./... && cd ../deploy && go test -json -vet=off -timeout 15m ./...'

# shellcheck disable=SC2046,SC2086 # splits the lists
stage without-race nice go test -json -vet=off -timeout 15m -run "^($(echo $skipped | tr ' ' '|'))\$" \
	$(grep -rl --include='*_test.go' 'race\.Skip(t)' . | xargs -n 1 dirname | sort -u) "$@"

stage fuzz nice ./scripts/fuzz.sh "${FUZZTIME:-1s}"

wait "$machines"
trap - EXIT
grep -E '^(--- |ok)|: (from|the image has|the agent has) ' build/qemu.log # prints the results and the measured times
./build/testlog -summary
