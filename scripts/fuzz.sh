#!/bin/sh
# Runs each fuzz target of each package for the time in the argument (default 10s), two targets at
# once. Before Go 1.27, go test may report the end of this time as a failure (go.dev/issue/75804).
# After such a failure, the script runs the target again.
set -eu
cd "$(dirname "$0")/.."
export FUZZTIME="${1:-10s}"

# shellcheck disable=SC2016 # the inner shell expands these variables
grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed 's|/[^/]*_test\.go:func | |' | sort -u |
	xargs -P 2 -L 1 sh -c '
		for try in 1 2 3; do
			if out=$(go test -run "^\$" -fuzz "^$2\$" -fuzztime "$FUZZTIME" -fuzzminimizetime 1s -parallel 1 "$1" 2>&1); then
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
