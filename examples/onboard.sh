#!/usr/bin/env bash
# onboard.sh: a Gangway device made of only tpm2-tools, openssl and curl.
#
# This is executable documentation: a second implementation of the protocol in
# docs/protocol.md. "(§3)" refers to its section 3. Read this file from top to
# bottom: the functions come first, the steps that use them follow.
#
#   onboard.sh [options] TOKEN-FILE OUT-DIR
#
#   --two-steps      onboard with Pantacor's two steps (§9) instead of one round trip
#   --ek NAME        endorsement key template: H-2 H-3 L-2 H-4 H-1 L-1 H-6 H-7
#                    (default: the first of these with a certificate in the TPM)
#   --model TEXT     the machine's model          (default: from its firmware)
#   --serial TEXT    the machine's serial number  (default: from its firmware)
#   --handle H       persistent handle for the identity key, which OpenSSL needs
#                    (default: 0x81020000)
#   --keep           keep the key at the handle afterwards
#   --tcti TCTI      the TPM, as tpm2-tools name it (default: $TPM2TOOLS_TCTI,
#                    or device:/dev/tpmrm0)
#
# The files in OUT-DIR are identity.pem (the IDevID certificate and its issuer; with
# --two-steps the hub does not send the issuer), aik.pem, hub-ca.pem and device.json.
# No file contains a secret. You can stop this script at any time and start it again:
# with the same TPM, the machine stays the same device.
#
# It requires bash 5.1, OpenSSL 3, Debian's packages tpm2-tools, tpm2-openssl, curl,
# jq and xxd, and a TPM behind a resource manager, such as the kernel's /dev/tpmrm0:
# OpenSSL's provider uses more objects at once than a TPM can load. gangway-agent does more: it
# needs no persistent key and little memory in the TPM, works around TPMs' oddities, and retries
# while the hub cannot be reached.
set -euo pipefail
umask 077
export LC_ALL=C # lengths are in bytes

say()  { printf '%s\n' "$*" >&2; }
die()  { say "onboard.sh: $*"; exit 1; }
usage() { say "onboard.sh: $*"; say "usage: onboard.sh [--two-steps] [--ek NAME] [--model TEXT] [--serial TEXT] [--handle 0x8102....] [--keep] [--tcti TCTI] TOKEN-FILE OUT-DIR"; exit 2; }

ek_wanted="" model="" serial="" handle=0x81020000 keep="" two=""
tcti="${TPM2TOOLS_TCTI:-device:/dev/tpmrm0}"
while [ $# -gt 0 ]; do
	case "$1" in
	--ek | --model | --serial | --handle | --tcti)
		[ $# -ge 2 ] || usage "$1 needs a value"
		case "$1" in
		--ek) ek_wanted=$2 ;; --model) model=$2 ;; --serial) serial=$2 ;; --handle) handle=$2 ;; --tcti) tcti=$2 ;;
		esac
		shift 2 ;;
	--keep) keep=yes; shift ;;
	--two-steps) two=yes; shift ;;
	-h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
	-*) usage "unknown option $1" ;;
	*) break ;;
	esac
done
[ $# = 2 ] || usage "name a join token file and a folder for the result"
token_file=$1 out=$2
[[ $handle =~ ^0x8102[0-9a-fA-F]{4}$ ]] || usage "--handle $handle is not for device identities: use 0x81020000 to 0x8102FFFF"

for program in tpm2_createprimary openssl curl jq xxd; do
	command -v "$program" >/dev/null || die "$program is not installed: apt-get install tpm2-tools tpm2-openssl openssl curl jq xxd"
done
export TPM2TOOLS_TCTI="$tcti" TPM2OPENSSL_TCTI="$tcti" TSS2_LOG="${TSS2_LOG:-all+NONE}"

# The programs pass data to each other in temporary files, which are in memory if the system
# has a file system in memory. No file contains a secret.
[ $((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1])) -ge 501 ] || die "bash 5.1 or later is required: older versions write here-strings to files"
for place in "${XDG_RUNTIME_DIR:-}" /dev/shm "${TMPDIR:-/tmp}"; do
	[ -z "$place" ] || [ ! -w "$place" ] || break
done
work=$(mktemp -d -p "$place" onboard.XXXXXX)
persisted="" tls_pid="" sleep_pid=""
finish() {
	status=$?
	trap - EXIT
	for pid in "$tls_pid" "$sleep_pid"; do
		[ -z "$pid" ] || kill "$pid" 2>/dev/null || true
	done
	if [ -n "$persisted" ] && { [ -z "$keep" ] || [ "$status" != 0 ]; }; then
		tpm2_evictcontrol -Q -C o -c "$handle" || say "onboard.sh: removing the identity key from $handle failed: remove it with tpm2_evictcontrol -C o -c $handle"
	fi
	end_sessions 2>/dev/null || true
	flush 2>/dev/null || true
	rm -rf "$work"
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

### Bytes #####################################################################
# Structures are built as hexadecimal text, because shell variables cannot contain zero
# bytes.

hex()  { xxd -p | tr -d '\n'; }          # bytes on stdin, as hexadecimal
raw()  { xxd -r -p; }                    # hexadecimal on stdin, as bytes
text() { printf %s "$1" | hex; }         # a string, as hexadecimal
u8()   { printf %02x "$1"; }             # integers, big-endian
u16()  { printf %04x "$1"; }
u24()  { printf %06x "$1"; }
u32()  { printf %08x "$1"; }
len()  { echo $((${#1} / 2)); }          # bytes of a hexadecimal text
sized() { "$1" "$(len "$2")"; printf %s "$2"; } # sized u16 HEX: the length, then the bytes
digest() { openssl dgst "-$1" -binary | hex; }  # digest sha256 <bytes

# HMAC-SHA256 (RFC 2104) and HKDF (RFC 5869). `openssl mac` and `openssl kdf` take the
# key as an argument, which every user can see in the process list. The shell's printf
# is not a process.
hmac() { # hmac KEY-HEX MESSAGE-HEX, of keys up to 64 bytes
	local key="$1" i inner="" outer="" byte
	while [ ${#key} -lt 128 ]; do key+=00; done
	for ((i = 0; i < 128; i += 2)); do
		byte=$((16#${key:i:2}))
		printf -v inner %s%02x "$inner" $((byte ^ 0x36))
		printf -v outer %s%02x "$outer" $((byte ^ 0x5c))
	done
	inner=$(raw <<<"$inner$2" | digest sha256)
	raw <<<"$outer$inner" | digest sha256
}
hkdf() { # hkdf SECRET-HEX SALT-HEX INFO: the first 32 bytes
	local prk
	prk=$(hmac "$2" "$1")          # Extract
	hmac "$prk" "$(text "$3")01"   # Expand, its first block
}

# der prints the first DER value of a hexadecimal text. TPMs pad the space after a certificate, and
# store intermediate certificates one after the other.
der() {
	[[ $1 =~ ^3082([0-9a-f]{4}) ]] || return 1
	local n=$((2 * (4 + 16#${BASH_REMATCH[1]})))
	[ ${#1} -ge $n ] || return 1
	printf %s "${1:0:n}"
}

### The TPM ###################################################################

# Each tool loads objects from files and leaves them loaded. A resource manager flushes
# these objects; a TPM without one keeps them. end_sessions flushes only this script's
# sessions, because the TPM may also have sessions of other programs.
flush() { tpm2_flushcontext -Q -t; }
end_sessions() {
	local file
	for file in "$work"/*.session; do
		[ ! -e "$file" ] || tpm2_flushcontext -Q "$file" || true
		rm -f "$file"
	done
}

# Policies are hashes, so they can be computed without a TPM (TPM 2.0, Part 3, 23).
extend() { # extend HASH POLICY-HEX MORE-HEX
	raw <<<"$2$3" | digest "$1"
}
zeros() { # a policy's start: as many zeros as the hash is long
	case "$1" in sha256) printf %064d 0 ;; sha384) printf %096d 0 ;; sha512) printf %0128d 0 ;; esac
}
alg() { case "$1" in sha256) echo 000b ;; sha384) echo 000c ;; sha512) echo 000d ;; esac }
policy_secret() { # PolicySecret(TPM_RH_ENDORSEMENT), without a policyRef
	extend "$1" "$(extend "$1" "$(zeros "$1")" 000001514000000b)" ""
}
policy_command() { # the same, then PolicyCommandCode
	extend "$1" "$(policy_secret "$1")" "0000016c$2"
}
policy_delegated() { # PolicyAuthorizeNV(the index in $2): its name is the hash of its TPMS_NV_PUBLIC
	local a nv
	a=$(policy_secret "$1")
	nv="$2$(alg "$1")220f1008$(sized u16 "$a")$(u16 $((2 + $(len "$a"))))"
	extend "$1" "$(zeros "$1")" "00000192$(alg "$1")$(raw <<<"$nv" | digest "$1")"
}
policy_or() { # policy_or HASH BRANCH...
	local hash=$1; shift
	extend "$hash" "$(zeros "$hash")" "00000171$(printf %s "$@")"
}

# session FILE HASH [COMMAND BRANCH-FILES]: starts a policy session that satisfies
# PolicySecret(endorsement) and, if given, the branch of a DevID key's policy for one
# command.
session() {
	tpm2_startauthsession -Q --policy-session -g "$2" -S "$1"
	tpm2_policysecret -Q -S "$1" -c e >/dev/null
	[ $# = 2 ] && return
	tpm2_policycommandcode -Q -S "$1" "$3" >/dev/null
	(cd "$work" && tpm2_policyor -Q -S "$1" -l "$2:$4" >/dev/null) # the list ends at a comma
}

# public NAME: for the key in NAME.ctx, writes NAME.public (TPMT_PUBLIC), NAME.name (the
# TPM name) and NAME.pem (the public key in PEM).
public() {
	tpm2_readpublic -Q -c "$work/$1.ctx" -f tss -o "$work/$1.tpm2b" -n "$work/$1.name" &&
		tail -c +3 "$work/$1.tpm2b" >"$work/$1.public" && # without the size in front
		tpm2_readpublic -Q -c "$work/$1.ctx" -f pem -o "$work/$1.pem" &&
		flush
}

# devid NAME UNIQUE ATTRIBUTES NV-INDEX: makes the key of DevID's template H-2
# (P-256), a primary key of the endorsement hierarchy. The same TPM always makes the same
# key from the same template, so nothing needs to be stored. The key's policy has four
# branches: user, certify, activate credential, delegation.
devid() {
	local branches i
	branches=("$(policy_secret sha256)" "$(policy_command sha256 00000148)"
		"$(policy_command sha256 00000147)" "$(policy_delegated sha256 "$4")")
	for i in 0 1 2 3; do
		raw <<<"${branches[i]}" >"$work/$1.branch$i"
	done
	printf '%s%s' "$2" "$2" | # the unique field: the tool halves it into x and y
		tpm2_createprimary -Q -C e -g sha256 -G ecc256:ecdsa-sha256:null -u - -L "$(policy_or sha256 "${branches[@]}")" \
			-a "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|sign$3" -c "$work/$1.ctx"
	flush
	public "$1"
}
branches() { printf '%s,%s,%s,%s' "$1.branch"{0,1,2,3}; } # for tpm2_policyor, in $work

# Templates of the EK profile, best first. gangway-agent uses the same order, so that the agent and
# this script use the same key and are the same device. Columns: name, NV index of the certificate,
# hash, type; for the high range also the NV index to which the policy can be delegated.
ek_templates="
H-2 0x01C00014 sha256 ecc256:aes128cfb  01c07f01
H-3 0x01C00016 sha384 ecc384:aes256cfb  01c07f02
L-2 0x01C0000A sha256 ecc               -
H-4 0x01C00018 sha512 ecc521:aes256cfb  01c07f03
H-1 0x01C00012 sha256 rsa2048:aes128cfb 01c07f01
L-1 0x01C00002 sha256 rsa               -
H-6 0x01C0001C sha384 rsa3072:aes256cfb 01c07f02
H-7 0x01C0001E sha384 rsa4096:aes256cfb 01c07f02"

make_ek() { # make_ek HASH TYPE DELEGATION
	if [ "$3" = - ]; then # the low range, with what the chip's maker may have stored of its template
		tpm2_createek -Q -G "$2" -c "$work/ek.ctx" || return
	else
		tpm2_createprimary -Q -C e -g "$1" -G "$2" -c "$work/ek.ctx" \
			-a 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|restricted|decrypt' \
			-L "$(policy_or "$1" "$(policy_secret "$1")" "$(policy_delegated "$1" "$3")")" || return
	fi
	flush && public ek
}

### The hub ###################################################################

# The script trusts only the CA in the token file, and none of the system's CAs.
hub_curl() {
	curl -q --silent --show-error --proto '=https' --tlsv1.3 --cacert "$work/hub-ca.pem" --capath "$work/none" \
		--connect-timeout 10 --max-time 60 "$@"
}

# refused FILE STATUS: prints the hub's refusal without control characters, and exits.
refused() {
	local words
	words=$(jq -r '"\(.msg) (\(.error)) \(.hint // "")"' "$1" 2>/dev/null | tr -d '\000-\037\177') || true
	die "the hub refused ($2): ${words:-no reason given}"
}

# post PATH TYPE FILE ANSWER: sends a file and prints the status.
post() {
	hub_curl --max-filesize 65536 -X POST -H "Content-Type: $2" --data-binary "@$3" -o "$4" -w '%{http_code}' "$hub$1" ||
		die "the hub at $hub cannot be reached, or is not the hub that the join token names; start this script again: with the same TPM, the machine stays the same device"
}
part() { jq -er --arg f "$2" '.[$f] | strings' "$1" | openssl base64 -d -A; } # part FILE FIELD: its bytes

# credential_file BLOB-HEX SECRET-HEX: makes a credential file of tpm2-tools.
credential_file() { raw <<<"badcc0de00000001$(sized u16 "$1")$(sized u16 "$2")" >"$work/credential"; }

###############################################################################
# Step 1 (§1): the device's inputs. The token file has the hub's address, its CA, and the
# device's future owner.

[ "$(wc -c <"$token_file")" -le 65536 ] || die "$token_file is too large for a join token file"
field() { jq -er --arg f "$1" '.[$f] | strings' "$token_file" || die "$token_file has no \"$1\": is it a join token file?"; }
token_id=$(field id); owner=$(field owner); hub=$(field hub); hub_name=$(field hub-name); hub_ca=$(field hub-ca)
[[ $token_id =~ ^[0-9a-f]{24}$ ]] || die "$token_file: the id is not 24 hexadecimal digits"
[[ $owner =~ ^prn:::accounts:/[0-9a-f]{24}$ ]] || die "$token_file: the owner is not the prn of an account"
[[ $hub_name =~ ^[0-9a-f]{64}$ ]] || die "$token_file: the hub's name is not 64 hexadecimal digits"
[[ $hub =~ ^https://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?/?$ ]] || die "$token_file: the hub is not of the form https://host[:port]"
hub=${hub%/} host=${BASH_REMATCH[1]} port=${BASH_REMATCH[2]:-:443}
token_secret=$(field token | openssl base64 -d -A | hex)
[ "$(len "$token_secret")" = 24 ] || die "$token_file: the token is not the base64 of 24 bytes"
printf '%s\n' "$hub_ca" >"$work/hub-ca.pem"
openssl x509 -in "$work/hub-ca.pem" -noout 2>/dev/null || die "$token_file: hub-ca has no certificate"
mkdir "$work/none"

dmi() { tr -d '\000-\037' 2>/dev/null <"/sys/class/dmi/id/$1" || true; }
model=${model:-$(dmi product_name)} serial=${serial:-$(dmi product_serial)}

# Step 2 (§1): the endorsement key (EK), and the certificate that the TPM's maker stored
# in the TPM.
present=$(tpm2_getcap handles-nv-index) || die "the TPM at $tcti does not answer: check that it exists and that you may use it"
openssl list -providers -provider tpm2 >/dev/null 2>&1 ||
	die "OpenSSL has no TPM provider: apt-get install tpm2-openssl"
has_nv() { grep -qix -- "- 0x0*${1#0x0}" <<<"$present"; }
ek="" ek_cert="" chain=()
while read -r name index hash type delegation; do
	[ -n "$name" ] || continue
	[ -z "$ek_wanted" ] || [ "$ek_wanted" = "$name" ] || continue
	has_nv "$index" || continue
	ek_cert=$(der "$(tpm2_nvread "$index" 2>/dev/null | hex)") || { say "The content of NV index $index is not a certificate."; ek_cert=""; continue; }
	make_ek "$hash" "$type" "$delegation" || { ek_cert=""; continue; }
	certified=$(raw <<<"$ek_cert" | openssl x509 -inform DER -noout -pubkey 2>/dev/null | openssl pkey -pubin -outform DER 2>/dev/null | hex)
	if [ "$certified" = "$(openssl pkey -pubin -in "$work/ek.pem" -outform DER | hex)" ]; then
		ek=$name ek_hash=$hash
		break
	fi
	say "The certificate at $index is for a different key from the one that the TPM makes from template $name."
	ek_cert=""
done <<<"$ek_templates"
if [ -z "$ek" ]; then
	# The TPM has no EK certificate: some makers publish the certificates on the web instead. The hub
	# may let the owner decide. Such makers know the keys of the templates L-2 and L-1, so use one of
	# these.
	while read -r name index hash type delegation; do
		case "${ek_wanted:-L-2 L-1}" in *"$name"*) ;; *) continue ;; esac
		[ -n "$name" ] || continue
		if make_ek "$hash" "$type" "$delegation"; then
			ek=$name ek_hash=$hash
			[ "$name" = L-2 ] && break
		fi
	done <<<"$ek_templates"
	[ -n "$ek" ] || die "no endorsement key ${ek_wanted:+of template $ek_wanted }can be made in this TPM"
fi
# The maker's intermediate certificates, one after the other (EK profile 2.2.1.5.2).
stored=""
for index in $(tr -d ' -' <<<"$present" | grep -ix '0x0*1c001[0-9a-f][0-9a-f]' || true); do
	stored+=$(tpm2_nvread "$index" 2>/dev/null | hex) || say "Reading the maker's certificates at $index failed."
done
while [ ${#chain[@]} -lt 8 ] && next=$(der "$stored"); do
	chain+=("$next")
	stored=${stored:${#next}}
done
if [ -n "$ek_cert" ]; then
	say "Endorsement key $ek found, with its certificate and ${#chain[@]} intermediate certificates."
else
	say "Endorsement key $ek found, but the TPM has no certificate for it."
fi
model=${model:-unknown} serial=${serial:-ek-$(digest sha256 <"$work/ek.public" | cut -c 1-16)}

# Step 3 (§1): the IAK, which can only sign the TPM's own statements, and the IDevID key.
# Both are made from their templates each time.
devid iak IAK '|restricted' 01c90018
devid idevid IDEVID '' 01c90010

# Step 4 (§2): the IAK certifies that the IDevID key is in the same TPM.
# TPM2_Certify needs the IDevID key's ADMIN role: the second branch of its policy.
session "$work/certify.session" sha256 TPM2_CC_Certify "$(branches idevid)"
tpm2_certify -Q -c "$work/idevid.ctx" -P "session:$work/certify.session" -C "$work/iak.ctx" -g sha256 \
	-o "$work/certify.info" -s "$work/certify.signature"
end_sessions
flush

# Step 5: OpenSSL's TPM provider uses persistent keys, so the IDevID key is made
# persistent, at a handle that the TCG reserves for it. A TSS2 PRIVATE KEY file is not
# possible: it contains a key wrapped by a parent, and a primary key has no parent.
if tpm2_readpublic -Q -c "$handle" -n "$work/there.name" 2>/dev/null; then
	cmp -s "$work/there.name" "$work/idevid.name" || die "another key is at $handle: choose a handle with --handle"
else
	tpm2_evictcontrol -Q -C o -c "$work/idevid.ctx" "$handle" || die "making the key persistent at $handle failed: does the owner hierarchy have a password?"
	persisted=yes
	flush
fi

# waits_for_owner REPLY: the status 202 means that the owner must decide. The function prints this
# and waits as long as the hub asks for. Then the caller retries.
waits_for_owner() {
	local pause
	pause=$(jq -r '."retry-after" | numbers | floor' "$1") || pause=""
	[[ $pause =~ ^[0-9]{1,3}$ ]] && [ "$pause" -gt 0 ] || pause=30
	jq -r '"Waiting for the owner to decide: \(.msg) Approve with: gangway device approve \(."device-id"), after comparing the SHA-256 of the EK: \(."ek-sha256")"' \
		"$1" | tr -d '\000-\037\177' >&2
	say ""
	sleep "$pause" & # so that a signal need not wait for it
	sleep_pid=$!
	wait "$sleep_pid"
	sleep_pid=""
}

# open_credential: opens $work/credential, a file of tpm2_makecredential, and puts the secret into
# $secret. TPM2_ActivateCredential returns the secret only if the EK and the IAK are in one TPM. A
# third session encrypts the secret on the bus. The secret is never in a file.
open_credential() {
	session "$work/iak.session" sha256 TPM2_CC_ActivateCredential "$(branches iak)"
	local ek_auth=""
	case "$ek" in L-*) session "$work/ek.session" "$ek_hash"; ek_auth="session:$work/ek.session" ;; esac
	tpm2_startauthsession -Q --hmac-session --tpmkey-context "$work/ek.ctx" -S "$work/bus.session" 2>/dev/null || # it warns needlessly
		die "the TPM cannot start a session salted to the EK"
	tpm2_sessionconfig -Q --enable-encrypt "$work/bus.session"
	flush
	secret=$(tpm2_activatecredential -Q -c "$work/iak.ctx" -C "$work/ek.ctx" -i "$work/credential" -o /dev/fd/3 \
		-p "session:$work/iak.session" ${ek_auth:+-P "$ek_auth"} -S "$work/bus.session" 3>&1 >/dev/null | hex) || secret=""
	[ "$(len "$secret")" = 32 ] || die "the TPM cannot open the hub's reply: it is for another TPM, or was altered"
	end_sessions
	flush
}

# tls_open: connects to the hub with the IDevID certificate (§6), with TLS 1.3. s_client prints the
# exporter after the handshake, and tls_open puts it into $exporter. OpenSSL also verifies
# signatures with the TPM, so it uses more objects at once than a TPM has room for without a
# resource manager.
tls_open() {
	local verify_host=(-verify_hostname "$host") chain=() line
	[[ $host =~ ^[0-9.]+$|^\[ ]] && verify_host=(-verify_ip "$(tr -d '[]' <<<"$host")")
	[ ! -e "$work/device-ca.pem" ] || chain=(-cert_chain "$work/device-ca.pem")
	# s_client mixes its messages into the answer unless it flushes each line.
	mkfifo "$work/to" "$work/from"
	timeout 60 stdbuf -oL openssl s_client -connect "$host$port" -servername "$host" -tls1_3 -ign_eof \
		-CAfile "$work/hub-ca.pem" -no-CApath -no-CAstore -verify_return_error "${verify_host[@]}" \
		-provider default -provider tpm2 -propquery '?tpm2.signature=yes' \
		-cert "$work/idevid-cert.pem" "${chain[@]}" -key "handle:$handle" \
		-keymatexport EXPORTER-gangway-activation -keymatexportlen 32 \
		<"$work/to" >"$work/from" 2>"$work/s_client.log" &
	tls_pid=$!
	exec 3>"$work/to" 4<"$work/from"
	trap '' PIPE # if s_client has ended, its missing output shows it
	exporter=""
	while [ -z "$exporter" ] && IFS= read -r -t 60 line <&4; do
		[[ $line =~ ^[[:space:]]*Keying\ material:\ ([0-9A-F]{64})$ ]] && exporter=${BASH_REMATCH[1],,}
	done
	[ -n "$exporter" ] && return
	! grep -q 'out of memory for object contexts' "$work/s_client.log" ||
		die "the TPM has too little memory for OpenSSL: use the TPM through a resource manager (--tcti device:/dev/tpmrm0, or tabrmd)"
	die "the TLS 1.3 connection with the IDevID certificate failed: $(tail -n 3 "$work/s_client.log")"
}

# tls_ask METHOD PATH BODY: sends one request, which is the last on its connection. It puts the
# answer's status into $code and its body into $work/device.json.
tls_ask() {
	local size="" line
	printf '%s %s HTTP/1.0\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s' \
		"$1" "$2" "${hub#https://}" ${#3} "$3" >&3 2>/dev/null || true
	# Skip the lines that s_client prints about the connection. Then the answer follows: the status
	# line, the header, and the body with the length in the header. If the header has no length, the
	# body ends before the word that s_client prints when the connection ends.
	code=""
	while IFS= read -r -t 60 line <&4; do
		line=${line%$'\r'}
		if [ -z "$code" ]; then
			[[ $line =~ ^HTTP/1\.[01]\ ([0-9]{3}) ]] && code=${BASH_REMATCH[1]}
		elif [ -z "$line" ]; then
			break
		elif [[ ${line,,} =~ ^content-length:\ ([0-9]{1,6})$ ]]; then
			size=${BASH_REMATCH[1]}
		fi
	done
	[ -n "$code" ] || die "the hub did not answer $1 $2: $(tail -n 3 "$work/s_client.log"); run this again"
	if [ -n "$size" ]; then
		head -c "$size" <&4 >"$work/device.json"
	else
		line=$(head -c 65536 <&4)
		printf '%s' "${line%closed}" >"$work/device.json"
	fi
	kill "$tls_pid" 2>/dev/null || true
	wait "$tls_pid" 2>/dev/null || true
	tls_pid=""
	[ "$code" = 200 ] || refused "$work/device.json" "$code"
}

# is_ours LEAF CA KEY: checks that a certificate is from the hub and for this TPM's key. Dates are
# not checked: the certificates never expire, and the machine's clock may be wrong.
is_ours() {
	openssl verify -no-CApath -no-CAstore -CAfile "$work/hub-ca.pem" -no_check_time \
		-untrusted "$2" "$1" >/dev/null || die "a certificate in the reply was not issued by the hub's CA"
	is_for "$1" "$3"
}
is_for() {
	[ "$(openssl x509 -in "$1" -noout -pubkey)" = "$(openssl pkey -pubin -in "$work/$2.pem")" ] ||
		die "a certificate in the hub's reply is for a key that this TPM does not have"
}
certificates_of() { # certificates_of FILE NAME: into NAME1.pem, NAME2.pem and so on
	awk -v to="$2" '/BEGIN CERT/ { n++ } n { print > (to n ".pem") }' "$1"
}

# ownership_proof: writes $work/ownership.proof (§3), a signature with the token's Ed25519
# key over the TPM name of the IDevID key. It is valid only for this key, hub, owner and
# token. The token's key (PKCS #8, RFC 8410) goes to openssl through a pipe.
ownership_proof() {
	local seed
	seed=$(hkdf "$token_secret" "$(text "$token_id")" "gangway ownership v1")
	{
		printf 'gangway ownership v1\0'
		raw <<<"$(for part in "$(text "$hub_name")" "$(text "$owner")" "$(text "$token_id")" "$idevid_name"; do sized u8 "$part"; done)"
	} >"$work/ownership.message"
	openssl pkeyutl -sign -rawin -inkey <(raw <<<"302e020100300506032b657004220420$seed") -keyform DER \
		-in "$work/ownership.message" -out "$work/ownership.proof" || die "signing with the token's key failed"
}

### One round trip ############################################################

one_round_trip() {
	local ca_data certificates fields sizes values value head pad hashed i status

	# A1 (§3): prodCaData names the device's owner.
	ownership_proof
	certificates=$(for value in "${chain[@]}"; do sized u16 "$value"; done)
	ca_data=0001$(sized u8 "$(text "$hub_name")"; sized u8 "$(text "$owner")"; sized u8 "$(text "$token_id")"
		sized u16 "$ek_public"; sized u8 "$(hex <"$work/ownership.proof")"; sized u24 "$certificates")

	# A2 (§2): the request, a TCG-CSR-IDEVID. It has the sizes of the fields, the fields, the hash
	# of all that, and the IDevID key's signature over the whole.
	fields=("$(text "$model")" "$(text "$serial")" "$ca_data" "" "${ek_cert:-$ek_public}"
		"$(hex <"$work/iak.public")" "" "" "" "$(hex <"$work/idevid.public")"
		"$(hex <"$work/certify.info")" "$(hex <"$work/certify.signature")")
	sizes="" values=""
	for value in "${fields[@]}"; do
		sizes+=$(u32 "$(len "$value")") values+=$value
	done
	head=$((4 + 4 + 4 + 32 + 4 * 13)) # structVer, hashAlgId, hashSize, hash, 13 sizes
	pad=$(((16 - (head + $(len "$values")) % 16) % 16))
	hashed=$sizes$(u32 $pad)$values
	for ((i = 0; i < pad; i++)); do hashed+=00; done
	raw <<<"00000100$(u32 11)$(u32 32)$(raw <<<"$hashed" | digest sha256)$hashed" >"$work/contents" # 11: TPM_ALG_SHA256
	openssl dgst -sha256 -binary -out "$work/contents.digest" "$work/contents"
	tpm2_sign -Q -c "$work/idevid.ctx" -g sha256 -d -o "$work/contents.signature" "$work/contents.digest"
	flush
	{
		raw <<<"00000100$(u32 "$(wc -c <"$work/contents")")$(u32 "$(wc -c <"$work/contents.signature")")"
		cat "$work/contents" "$work/contents.signature"
	} >"$work/request"

	# A3 (§2, §4): send the request, and send the same bytes again until the owner has decided.
	while :; do
		status=$(post /onboard application/octet-stream "$work/request" "$work/reply")
		[ "$status" = 202 ] || break
		waits_for_owner "$work/reply"
	done
	[ "$status" = 200 ] || refused "$work/reply" "$status"

	# A4 (§5): only this TPM can open the reply. Two keys are derived from the secret: one decrypts
	# the reply, the other proves that the device decrypted it.
	local request_hash wrapping activation
	credential_file "$(part "$work/reply" credential-blob | hex)" "$(part "$work/reply" secret | hex)"
	part "$work/reply" sealed >"$work/sealed.der"
	open_credential
	request_hash=$(digest sha256 <"$work/request")
	wrapping=$(hkdf "$secret" "$request_hash" "gangway reply v1")
	activation=$(hkdf "$secret" "$request_hash" "gangway activation v1")
	secret=""
	# The wrapping key only decrypts certificates, which are public. So it may be an argument, which
	# other users can see in the process list.
	openssl cms -decrypt -binary -inform DER -in "$work/sealed.der" -secretkey "$wrapping" -secretkeyid 67616e67776179 \
		-out "$work/certificates" || die "decrypting the sealed reply failed"

	# A5 (§5, §7): the reply has four certificates, in this order: IDevID, device CA, IAK, ACA.
	certificates_of "$work/certificates" "$work/cert"
	[ "$(grep -c 'BEGIN CERTIFICATE' "$work/certificates")" = 4 ] || die "the reply does not have four certificates"
	mv "$work/cert1.pem" "$work/idevid-cert.pem"; mv "$work/cert2.pem" "$work/device-ca.pem"
	mv "$work/cert3.pem" "$work/aik-cert.pem"; mv "$work/cert4.pem" "$work/aca.pem"
	is_ours "$work/idevid-cert.pem" "$work/device-ca.pem" idevid
	is_ours "$work/aik-cert.pem" "$work/aca.pem" iak
	say "The TPM opened the reply; it has the AIK and IDevID certificates."

	# A6 (§6): the first connection with the IDevID certificate. The activation proof is bound to
	# this connection.
	local certificate_hash proof
	tls_open
	certificate_hash=$(openssl x509 -in "$work/idevid-cert.pem" -outform DER | digest sha256)
	proof=$(hmac "$activation" "$exporter$certificate_hash" | raw | openssl base64 -A)
	tls_ask POST /onboard/activate "{\"proof\":\"$proof\"}"
}

### Pantacor's two steps ######################################################

two_steps() {
	local iak_name keys status arc register encryption mac value

	# B0 (§9): the hub answers both steps before the device uses the TPM's key on a connection.
	# So the proofs must name the hub whose key verifies this connection, even if the token file
	# names another hub.
	certificates_of "$work/hub-ca.pem" "$work/hub-root"
	for value in "$work"/hub-root*.pem; do
		[ "$(openssl x509 -in "$value" -noout -pubkey | openssl pkey -pubin -outform DER | digest sha256)" = "$hub_name" ] ||
			die "$token_file: the key of hub-ca does not match hub-name; the server at this address could relay this request to the hub with that name"
	done

	# B1 (§9): the first step shows the keys and asks for the IAK's certificate
	# (Pantacor calls that key AK). The request has the keys as TPM2B_PUBLIC, the format
	# that tpm2_readpublic writes, in base64.
	iak_name=$(hex <"$work/iak.name")
	keys=$(jq -n --arg ak "$(openssl base64 -A -in "$work/iak.tpm2b")" --arg ek "$(openssl base64 -A -in "$work/ek.tpm2b")" \
		--arg cert "$(raw <<<"$ek_cert" | openssl base64 -A)" \
		--argjson chain "$(for value in "${chain[@]}"; do raw <<<"$value" | openssl base64 -A; echo; done | jq -nR '[inputs]')" \
		'{"ak-pub": $ak, "ek-pub": $ek, "ek-cert": $cert, "ek-chain": $chain}')
	jq --arg name "$iak_name" '. + {"ak-name": $name}' <<<"$keys" >"$work/enroll.json"

	# B2 (§9): the CSR, made by OpenSSL and signed by its TPM provider. Its extensions name the
	# future owner of the device, and prove that the CSR's key is in this TPM.
	ownership_proof
	arc=1.3.6.1.4.1.54621.100
	cat >"$work/csr.cnf" <<-END
		[req]
		prompt = no
		distinguished_name = dn
		req_extensions = extensions
		[dn]
		CN = IDevID
		[extensions]
		$arc.0 = DER:$(text "$iak_name")
		$arc.1 = DER:$(text "$owner")
		$arc.2 = DER:$(hex <"$work/ownership.proof")
		$arc.3 = DER:$(text "$token_id")
		$arc.4 = DER:$(hex <"$work/certify.info")
		$arc.5 = DER:$(hex <"$work/certify.signature")
	END
	openssl req -new -provider tpm2 -provider default -propquery '?provider=tpm2,tpm2.digest!=yes' \
		-key "handle:$handle" -sha256 -config "$work/csr.cnf" -outform DER -out "$work/csr.der" ||
		die "making a certificate request with the TPM's key failed"

	while :; do
		# B3 (§9): three keys are derived from the credential's secret. With two of them the hub has
		# encrypted and authenticated the certificate. With the third the device proves that it
		# opened the credential.
		status=$(post /enroll/request application/json "$work/enroll.json" "$work/enrolled.json")
		[ "$status" = 200 ] || refused "$work/enrolled.json" "$status"
		part "$work/enrolled.json" credential >"$work/credential"
		open_credential
		encryption=$(hkdf "$secret" "$iak_name" "gangway enroll encryption v1")
		mac=$(hkdf "$secret" "$iak_name" "gangway enroll mac v1")
		register=$(hkdf "$secret" "$iak_name" "gangway register v1")
		secret=""

		# B4 (§9): the second step. Its proof names the hub.
		jq --arg csr "$(openssl base64 -A -in "$work/csr.der")" --arg name "$idevid_name" --arg hub "$hub_name" \
			--arg proof "$(hmac "$register" "$(text "gangway register v2")00$(sized u8 "$(text "$hub_name")")$(hex <"$work/csr.der")" | raw | openssl base64 -A)" \
			'. + {"csr": $csr, "name": $name, "hub-name": $hub, "proof": $proof}' <<<"$keys" >"$work/register.json"
		status=$(post /register application/json "$work/register.json" "$work/registered.json")
		[ "$status" = 202 ] || break
		waits_for_owner "$work/registered.json" # then both steps again: a credential ages
	done
	[ "$status" = 200 ] || refused "$work/registered.json" "$status"
	part "$work/registered.json" crt | openssl x509 -inform DER -out "$work/idevid-cert.pem" || die "the answer has no certificate"
	is_for "$work/idevid-cert.pem" idevid

	# B5 (§9): the IAK's certificate that came with the first step expires soon; decrypting it only
	# shows that the derived keys are correct. If a person had to decide, the first step's answer has
	# no certificate. The HMAC is checked before anything is decrypted. The encryption key only
	# opens certificates, which are public, so it may be an argument.
	if [ -n "$(jq -r '.certificate | strings' "$work/enrolled.json")" ]; then
		part "$work/enrolled.json" iv >"$work/iv"
		part "$work/enrolled.json" certificate >"$work/aik.encrypted"
		[ "$(hmac "$mac" "$(cat "$work/iv" "$work/aik.encrypted" | hex)")" = "$(part "$work/enrolled.json" mac | hex)" ] ||
			die "the first step's answer was altered"
		openssl enc -d -aes-256-cbc -K "$encryption" -iv "$(hex <"$work/iv")" -in "$work/aik.encrypted" -out "$work/aik" ||
			die "decrypting the IAK's certificate failed"
		certificates_of "$work/aik" "$work/aik-part"
		mv "$work/aik-part1.pem" "$work/aik-first.pem"; mv "$work/aik-part2.pem" "$work/aca.pem"
		is_ours "$work/aik-first.pem" "$work/aca.pem" iak
	fi
	# The permanent certificate of the IAK is at this address, which contains the IAK's name.
	hub_curl --fail --max-filesize 65536 -o "$work/aik.der" "$hub/aca/certs/$iak_name.crt" || die "downloading the IAK's certificate failed"
	openssl x509 -inform DER -in "$work/aik.der" -out "$work/aik-cert.pem" || die "the hub's answer is not a certificate"
	is_for "$work/aik-cert.pem" iak
	[ ! -e "$work/aca.pem" ] || is_ours "$work/aik-cert.pem" "$work/aca.pem" iak
	say "The TPM opened the reply: the device is registered."

	# B6 (§6): the device is active already. It reads its own record over the first connection with
	# the IDevID certificate, which shows that the key works.
	tls_open
	tls_ask GET /device ""
}

### The result ################################################################

idevid_name=$(hex <"$work/idevid.name") ek_public=$(hex <"$work/ek.public")
if [ -n "$two" ]; then two_steps; else one_round_trip; fi
device=$(jq -er '.id | strings' "$work/device.json") || die "the hub's answer is malformed"

# Copy these files to OUT-DIR. None of them contains a secret.
mkdir -p "$out"
cat "$work/idevid-cert.pem" >"$out/identity.pem"
[ ! -e "$work/device-ca.pem" ] || cat "$work/device-ca.pem" >>"$out/identity.pem"
cat "$work/aik-cert.pem" >"$out/aik.pem"
[ ! -e "$work/aca.pem" ] || cat "$work/aca.pem" >>"$out/aik.pem"
cp "$work/hub-ca.pem" "$work/device.json" "$out/"
say "Onboarded: this device is $device."
[ -z "$keep" ] || say "Its key is at $handle. OpenSSL uses it with: -provider default -provider tpm2 -propquery '?tpm2.signature=yes' -key handle:$handle"
