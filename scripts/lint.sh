#!/bin/sh
# Checks formatting, vet, staticcheck, and the import rules of internal/walls.
set -eu
cd "$(dirname "$0")/.."

unformatted=$(git ls-files '*.go' | xargs gofmt -l)
if [ -n "$unformatted" ]; then
	echo "gofmt would change: $unformatted" >&2
	exit 1
fi
go vet ./...
go tool staticcheck ./...
# The program that makes releases, and the tests of the files for containers, are separate modules.
staticcheck=$(go tool -n staticcheck)
for module in internal/release internal/deploy; do
	(cd $module && go vet ./... && "$staticcheck" ./...)
done

# The import rules: internal/walls has the rules and their reasons.
go test -count=1 ./internal/walls
