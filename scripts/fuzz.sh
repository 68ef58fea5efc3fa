#!/bin/sh
# Runs each fuzz target of each package for a time, two of them beside each
# other.
set -eu
cd "$(dirname "$0")/.."
export FUZZTIME="${1:-10s}"

# shellcheck disable=SC2016 # the inner shell's
grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed 's|/[^/]*_test\.go:func | |' | sort -u |
	xargs -P 2 -L 1 sh -c '
		if out=$(go test -run "^\$" -fuzz "^$2\$" -fuzztime "$FUZZTIME" -fuzzminimizetime 1s -parallel 1 "$1" 2>&1); then
			echo "fuzzed $1 $2 for $FUZZTIME"
		else
			echo "$out"
			exit 255
		fi' fuzz
