#!/bin/sh
# Copies the built-in TPM makers' certificates from Debian's package ruby-tpm-key-attestation to
# hub/trust/roots, and writes their table. The same version of the package always gives the same
# bytes, so 'git diff' shows what a newer version changes. Needs apt-get, dpkg-deb, openssl and Go.
set -eu
cd "$(dirname "$0")/.."
package=ruby-tpm-key-attestation
roots="$PWD/hub/trust/roots"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work" # apt-get downloads as the user _apt, who must be able to read this folder
(cd "$work" && apt-get download "$package" >/dev/null && dpkg-deb -x ./*.deb x)
version=$(dpkg-deb -f "$work"/*.deb Version)
from=$(find "$work/x" -type d -path '*/lib/tpm/certificates')

rm -rf "$roots"
mkdir -p "$roots"
cp "$work/x/usr/share/doc/$package/copyright" "$roots/COPYRIGHT"
cp /usr/share/common-licenses/Apache-2.0 "$roots/LICENSE"
(cd "$from" && find . -type f | LC_ALL=C sort) | while read -r file; do
	file=${file#./}
	maker=${file%%/*}
	name=$(basename "${file%.*}" | tr -cs 'A-Za-z0-9.\n' '-' | sed 's/^-//; s/-$//')
	mkdir -p "$roots/$maker"
	{
		echo "$file of Debian's $package $version"
		openssl x509 -in "$from/$file" -outform PEM
	} > "$roots/$maker/$name.pem"
done
go test ./hub/trust -count=1 -run '^TestTableIsTrue$' -update
