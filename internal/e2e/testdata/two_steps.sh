#!/bin/sh
# A device of tpm2-tools, openssl and curl alone: Pantacor's two steps as
# docs/protocol.md, 8 has them.
#
# In the current folder: ca.pem, the hub's CA; iak.0 to .3 and idevid.0 to .3, the
# branches of the keys' policies. HUB, OWNER, TOKEN_ID and TOKEN are the join
# token's, EK and EK_NV the handle of the EK and the index of its certificate.
# EK_LOW: not empty where the EK is of the low range, which takes a policy and no
# password.
set -eu

hex() { od -An -v -tx1 "$@" | tr -d ' \n'; }
unhex() { sed 's/../\\x&/g' | xargs -0 printf '%b'; }
b64() { base64 | tr -d '\n'; }
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" "$2"; }
post() { curl -sS --cacert ca.pem -H 'Content-Type: application/json' --data-binary "@$2" -o "$3" -w '%{http_code}' "$HUB$1" >"$3.status"; }
hmac() { openssl dgst -sha256 -mac HMAC -macopt "hexkey:$1" -binary; }
clean() { tpm2_flushcontext -t; }

branches() { echo "sha256:$1.0,$1.1,$1.2,$1.3"; }
session() { # session FILE COMMAND-CODE BRANCHES: policy A, then what comes behind it
	tpm2_startauthsession --policy-session -S "$1"
	tpm2_policysecret -Q -S "$1" -c e
	[ -z "$2" ] || tpm2_policycommandcode -Q -S "$1" "$2"
	[ -z "$3" ] || tpm2_policyor -Q -S "$1" "$3"
}
key() { # key NAME ATTRIBUTES: a primary key of the endorsement hierarchy
	tpm2_startauthsession -S trial.s
	tpm2_policyor -Q -S trial.s -L "$1.policy" "$(branches "$1")"
	tpm2_flushcontext trial.s
	unique=$(echo "$1" | tr '[:lower:]' '[:upper:]')
	printf "\\00${#unique}\\000$unique\\00${#unique}\\000$unique" >"$1.unique"
	tpm2_createprimary -Q -C e -g sha256 -G ecc256:ecdsa-sha256:null -L "$1.policy" -u "$1.unique" -c "$1.ctx" \
		-a "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|sign$2"
	clean
	tpm2_readpublic -Q -c "$1.ctx" -o "$1.pub" -n "$1.name"
	clean
}

# The keys.
key iak '|restricted'
key idevid ''
tpm2_readpublic -Q -c "$EK" -o ek.pub
tpm2_nvread -Q -C o "$EK_NV" -o ek.crt
iak_name=$(hex iak.name)
shown="\"ak-pub\":\"$(b64 <iak.pub)\",\"ek-pub\":\"$(b64 <ek.pub)\",\"ek-cert\":\"$(b64 <ek.crt)\""

# The first step.
printf '{%s,"ak-name":"%s"}' "$shown" "$iak_name" >enroll.json
post /enroll/request enroll.json enrolled.json
[ "$(cat enrolled.json.status)" = 200 ] || { cat enrolled.json >&2; exit 1; }
field credential enrolled.json | base64 -d >credential
session iak.s TPM2_CC_ActivateCredential "$(branches iak)"
if [ -n "${EK_LOW:-}" ]; then
	session ek.s '' ''
	tpm2_activatecredential -Q -c iak.ctx -C "$EK" -i credential -o secret -p session:iak.s -P session:ek.s
	tpm2_flushcontext ek.s
else
	tpm2_activatecredential -Q -c iak.ctx -C "$EK" -i credential -o secret -p session:iak.s
fi
tpm2_flushcontext iak.s
clean
derive() { openssl kdf -keylen 32 -kdfopt digest:SHA256 -kdfopt "hexkey:$(hex secret)" -kdfopt "hexsalt:$iak_name" -kdfopt "info:$1" -binary HKDF | hex; }
field certificate enrolled.json | base64 -d >ak.enc
field iv enrolled.json | base64 -d >iv
[ "$(cat iv ak.enc | hmac "$(derive 'gangway enroll mac v1')" | b64)" = "$(field mac enrolled.json)" ] || { echo 'the answer was altered' >&2; exit 1; }
openssl enc -d -aes-256-cbc -K "$(derive 'gangway enroll encryption v1')" -iv "$(hex iv)" -in ak.enc -out ak.pem

# The second.
session certify.s TPM2_CC_Certify "$(branches idevid)"
tpm2_certify -Q -c idevid.ctx -P session:certify.s -C iak.ctx -g sha256 -o attest -s attest.sig
tpm2_flushcontext certify.s
clean
name=$(hex idevid.name)
token_key=$(printf %s "$TOKEN" | base64 -d | openssl dgst -sha256 -binary | hex)
printf %s "$name" | hex | tr -d '\n' | hmac "$token_key" >ownership
arc=1.3.6.1.4.1.54621.100
cat >csr.cnf <<END
[req]
prompt = no
distinguished_name = dn
req_extensions = extensions
[dn]
CN = IDevID
[extensions]
$arc.0 = DER:$(printf %s "$iak_name" | hex)
$arc.1 = DER:$(printf %s "$OWNER" | hex)
$arc.2 = DER:$(hex ownership)
$arc.3 = DER:$(printf %s "$TOKEN_ID" | hex)
$arc.4 = DER:$(hex attest)
$arc.5 = DER:$(hex attest.sig)
END
tpm2_evictcontrol -Q -C o -c idevid.ctx 0x81020001
clean
openssl req -new -provider tpm2 -provider default -propquery '?provider=tpm2,tpm2.digest!=yes' -key handle:0x81020001 -sha256 -config csr.cnf -outform DER -out csr.der
proof=$(hmac "$(derive 'gangway register v1')" <csr.der | b64)
printf '{"csr":"%s","name":"%s",%s,"proof":"%s"}' "$(b64 <csr.der)" "$name" "$shown" "$proof" >register.json
post /register register.json registered.json
[ "$(cat registered.json.status)" = 200 ] || { cat registered.json >&2; exit 1; }
field crt registered.json | base64 -d | openssl x509 -inform DER -out idevid.pem
