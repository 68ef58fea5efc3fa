#!/bin/sh
# Formatting, vet, staticcheck, and the rule of the house: the device's side
# and the hub's never import each other.
set -eu
cd "$(dirname "$0")/.."

unformatted=$(git ls-files '*.go' | xargs gofmt -l)
if [ -n "$unformatted" ]; then
	echo "gofmt would change: $unformatted" >&2
	exit 1
fi
go vet ./...
go tool staticcheck ./...

device="gangway/cmd/gangway-agent gangway/cmd/gangway-init gangway/install gangway/agent gangway/identity"
hub="gangway/hub gangway/objects gangway/onboard gangway/store gangway/pki gangway/evidence gangway/boot gangway/clone gangway/fetch gangway/policy gangway/trust gangway/bearer gangway/trail gangway/ui"
crossing() { # crossing FROM... -- INTO...: an import from one side into the other
	from=""; while [ "$1" != -- ]; do from="$from $1"; shift; done; shift
	# shellcheck disable=SC2086
	for into in "$@"; do
		go list -deps $from | grep -E "^$into(/|\$)" && return 0
	done
	return 1
}
# shellcheck disable=SC2086
if crossing $device -- $hub || crossing $hub -- gangway/agent gangway/identity; then
	echo "the device's side and the hub's side must not import each other" >&2
	exit 1
fi
# The pure rooms do no I/O.
for room in ./tcg ./tcg/join ./evidence ./policy ./boot ./clone ./trail ./install/netfile ./internal/strictjson; do
	if go list -f '{{join .Imports "\n"}}' "$room" | grep -xE 'os|net|net/http|io/fs'; then
		echo "$room must do no I/O" >&2
		exit 1
	fi
done
