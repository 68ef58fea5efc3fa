#!/bin/sh
# Runs each fuzz target of each package for the time in the argument (default 10s), two targets at
# once. Before Go 1.27, a test program may report the end of this time as a failure
# (go.dev/issue/75804). After such a failure, the script runs the target again.
set -eu
cd "$(dirname "$0")/.."
export FUZZTIME="${1:-10s}"
FUZZBIN=$(mktemp -d)
trap 'rm -rf "$FUZZBIN"' EXIT
FUZZCACHE=$(go env GOCACHE)/fuzz/$(go list -m)
export FUZZBIN FUZZCACHE

targets=$(grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed 's|^\./||; s|/[^/]*_test\.go:func | |' | sort -u)
# Build the program of each package once. "go test -fuzz" would build it for each target.
# shellcheck disable=SC2016 # the inner shell expands these variables
echo "$targets" | cut -d ' ' -f 1 | uniq | xargs -P 2 -L 1 sh -c 'go test -c -vet=off -fuzz . -o "$FUZZBIN/$1.test" "./$1"' build

# shellcheck disable=SC2016 # the inner shell expands these variables
echo "$targets" | xargs -P 2 -L 1 sh -c '
	cd "$1"
	for try in 1 2 3; do
		if out=$("$FUZZBIN/$1.test" -test.run "^\$" -test.fuzz "^$2\$" -test.fuzztime "$FUZZTIME" -test.fuzzminimizetime 1s -test.parallel 1 -test.fuzzcachedir "$FUZZCACHE/$1" -test.timeout 0 2>&1); then
			echo "fuzzed $1 $2 for $FUZZTIME"
			exit 0
		fi
		case $out in
		*"Failing input"* | *panic* | *"_test.go:"*) break ;;
		*"context deadline exceeded"*) ;;
		*) break ;;
		esac
	done
	echo "$out"
	exit 255' fuzz
