#!/bin/sh
# Quick check while you work: formatting, vet, staticcheck, the import rules of internal/walls, and
# the short tests. It installs nothing, and skips tests whose programs are not installed. "make test"
# runs all tests.
set -eu
cd "$(dirname "$0")/.."
mkdir -p build/check

lint=
memory=
finish() { # ends lint.sh if the tests fail
	[ -z "$lint" ] || kill -- "-$lint" 2>/dev/null || true
	[ -z "$memory" ] || rm -rf "${memory:?}"/*
}
trap finish EXIT
trap 'exit 130' INT TERM

# The tests write hundreds of databases and images, and "go test" writes 90 programs. In memory, this
# takes a quarter less time in the kernel, and nothing waits for the disk. The folder always has the
# same name, because "go test" keeps a test's result with the environment variables that the test
# reads. A second check at the same time uses the disk, and so does a machine with little memory.
folder=/dev/shm/gw$(id -u) # short, because the paths of Unix sockets must be short
if mkdir -m 711 "$folder" 2>/dev/null || { [ ! -L "$folder" ] && [ -d "$folder" ] && [ -O "$folder" ]; }; then
	shm=$(df -k "$folder" | awk 'END {print $4}') # KiB
	free=$(awk '$1 == "MemAvailable:" {print $2}' /proc/meminfo)
	exec 9<"$folder"
	if [ "$shm" -ge 4194304 ] && [ "$free" -ge 6291456 ] && flock -n 9; then
		memory=$folder
		rm -rf "${memory:?}"/*
		export TMPDIR="$memory"
	fi
fi

# lint.sh often uses only one processor, and the tests often wait. So both run at the same time. A
# failure of lint.sh is printed at once.
setsid sh -c './scripts/lint.sh >build/check/lint.log 2>&1 || { cat build/check/lint.log; exit 1; }' >&2 &
lint=$!
# Many tests wait, so one package more than there are processors runs at once. The packages that
# take longest come first. "go test" would link the programs of internal/bench and hub/store/transfer
# for nothing, because all their tests are skipped in short mode. Without debug information (-s -w),
# linking takes half the time; stack traces of failures still have functions and lines.
# shellcheck disable=SC2046 # splits the list
go run ./internal/testlog -dir build/check -stage check -- go test -p $(($(getconf _NPROCESSORS_ONLN) + 1)) -json -short -vet=off \
	-ldflags='-s -w' -timeout 5m \
	gangway/cmd/gangway gangway/hub/api $(go list ./... | grep -v -e '/internal/bench$' -e '/hub/store/transfer$')
wait "$lint"
lint=
