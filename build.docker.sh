#!/bin/sh
# Builds an installer image as Pantavisor's build is told to, by the environment:
#
#	PANTAVISOR_TPMACA=yes PV_AUTOTOK_FILE=device_autojointoken.json ./build.docker.sh x64-uefi-installer
#
#	PANTAVISOR_TPMACA  must be yes: the identity is in the TPM, or there is none
#	PV_AUTOTOK_FILE    the join token's file, of `gangway token create`
#	GANGWAY_CLAIM      yes, and no PV_AUTOTOK_FILE: as of `gangway image build --claim`
#	PANTAVISOR_DEBUG   yes: a console with login on the device
#	PVR_MERGE_SRC      sources of the devices' first revision, as of
#	                   `gangway image build --merge`, with spaces between them
#	GANGWAY_IMAGE      the image (build/installer.img)
#	GANGWAY_DISK       which disk, as of `gangway image build --disk`
#	GANGWAY_NETWORK    a file of network settings, as of --network-file
#	GANGWAY_RESET      yes: a stick that wipes machines instead, as of
#	                   `gangway image build --reset-only`
#	GANGWAY_SECURE_BOOT_KEY, GANGWAY_SECURE_BOOT_CERT
#	                   sign for Secure Boot, as of --secure-boot-key and -cert
#	GANGWAY_SECURE_BOOT_KEYS, GANGWAY_SECURE_BOOT_ENROL
#	                   sign with a folder's keys, and have machines take them,
#	                   as of --secure-boot-keys and --secure-boot-enrol
#
# It needs no Docker, in spite of its name, and no privileges.
set -eu

fail() {
	echo "build.docker.sh: $1" >&2
	exit 2
}
yesno() { # NAME VALUE
	case "$2" in
	yes | no | "") ;;
	*) fail "$1 is yes or no, not \"$2\"" ;;
	esac
}

[ $# -eq 1 ] || fail "name one target: ./build.docker.sh x64-uefi-installer"
[ "$1" = x64-uefi-installer ] || fail "unknown target \"$1\"; the only target is x64-uefi-installer"
yesno PANTAVISOR_TPMACA "${PANTAVISOR_TPMACA:-}"
yesno PANTAVISOR_DEBUG "${PANTAVISOR_DEBUG:-}"
[ "${PANTAVISOR_TPMACA:-}" = yes ] || fail "set PANTAVISOR_TPMACA=yes: Gangway's devices have their identity in the TPM"
[ -n "${PV_AUTOTOK_FILE:-}${GANGWAY_CLAIM:-}${GANGWAY_RESET:-}" ] || fail "set PV_AUTOTOK_FILE to the join token's file, of: gangway token create -o device_autojointoken.json; or GANGWAY_CLAIM=yes"
[ -z "${PV_AUTOTOK_FILE:-}" ] || [ -r "$PV_AUTOTOK_FILE" ] || fail "PV_AUTOTOK_FILE: $PV_AUTOTOK_FILE cannot be read"
yesno GANGWAY_CLAIM "${GANGWAY_CLAIM:-}"
yesno GANGWAY_RESET "${GANGWAY_RESET:-}"
start=$PWD
from() { # the file of that name where this was started; nothing for nothing
	case "$1" in
	"" | /*) echo "$1" ;;
	*) echo "$start/$1" ;;
	esac
}
token=$(from "${PV_AUTOTOK_FILE:-}")
key=$(from "${GANGWAY_SECURE_BOOT_KEY:-}")
cert=$(from "${GANGWAY_SECURE_BOOT_CERT:-}")
keys=$(from "${GANGWAY_SECURE_BOOT_KEYS:-}")
network=$(from "${GANGWAY_NETWORK:-}")

cd "$(dirname "$0")"
make -s build
kernel=build/installer-kernel
./build/gangway image fetch --dir "$kernel"
set -- --kernel "$kernel" -o "${GANGWAY_IMAGE:-build/installer.img}"
[ -z "$key" ] || set -- "$@" --secure-boot-key "$key"
[ -z "$cert" ] || set -- "$@" --secure-boot-cert "$cert"
[ -z "$keys" ] || set -- "$@" --secure-boot-keys "$keys"
[ -z "${GANGWAY_SECURE_BOOT_ENROL:-}" ] || set -- "$@" --secure-boot-enrol "$GANGWAY_SECURE_BOOT_ENROL"
[ "${GANGWAY_RESET:-}" != yes ] || set -- "$@" --reset-only
[ -z "${GANGWAY_DISK:-}" ] || set -- "$@" --disk "$GANGWAY_DISK"
[ -z "$network" ] || set -- "$@" --network-file "$network"
[ -z "$token" ] || set -- "$@" --token-file "$token"
[ "${GANGWAY_CLAIM:-}" != yes ] || set -- "$@" --claim
set -f # a source is a name, and no pattern
for source in ${PVR_MERGE_SRC:-}; do
	path=${source%%#*}
	case $path in
	/*) ;;
	*) [ ! -e "$start/$path" ] || source=$start/$source ;;
	esac
	set -- "$@" --merge "$source"
done
[ "${PANTAVISOR_DEBUG:-}" != yes ] || set -- "$@" --debug
exec ./build/gangway image build x64-uefi-installer "$@"
