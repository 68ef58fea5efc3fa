#!/bin/sh
# Runs each fuzz target of each package for a time.
set -eu
cd "$(dirname "$0")/.."
time="${1:-10s}"
go list ./... | while read -r package; do
	for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
		echo "fuzzing $package $target for $time"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 1s "$package"
	done
done
