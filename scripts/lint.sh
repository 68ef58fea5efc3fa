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
# The program that makes releases is a separate module. "make deploy-test" checks the module
# internal/deploy, because the Kubernetes libraries take long to compile, and "make compare" checks
# the module internal/compare.
staticcheck=$(go tool -n staticcheck)
(cd internal/release && go vet ./... && "$staticcheck" ./...)
# The program for HSMs is a separate module, and needs cgo and gcc. Only "make hsm" checks it.
if command -v gcc >/dev/null 2>&1 && [ "${GANGWAY_HSM:-}" ]; then
	(cd cmd/gangway-signer && CGO_ENABLED=1 go vet ./... && CGO_ENABLED=1 "$staticcheck" ./...)
	(cd internal/kmstest && go vet ./... && "$staticcheck" ./...)
fi

# The import rules: internal/walls has the rules and their reasons.
go test -count=1 ./internal/walls
