#!/bin/sh
# Copies files from npm packages, unchanged. For the hub's pages, hub/ui/vendor gets htmx, its
# extension for server-sent events, and the icons in $icons. For the tests, internal/browser/axe gets
# axe-core. This script fixes the version and the hash of each package. The README.md of each folder
# lists the files with their hashes, and tests check this list. Needs npm and openssl.
set -eu
cd "$(dirname "$0")/.."
icons="activity archive arrow-down arrow-up bell bookmark check chevron-down chevron-left chevron-right circle-alert circle-check circle-help clock columns-3 copy cpu disc download ellipsis external-link eye file-text fingerprint-pattern gauge git-branch hard-drive history info key keyboard link list-filter lock log-out menu minus monitor network pencil plus printer qr-code radio refresh-cw rocket rotate-ccw scroll-text search server settings shield shield-alert shield-check shield-off shield-question-mark sliders-horizontal tag terminal trash-2 triangle-alert undo-2 upload user users wifi x"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# unpack NAME VERSION HASH downloads a package, checks its hash, and unpacks it to $work/package.
unpack() {
	name=$1 version=$2
	rm -rf "$work/package" "$work"/*.tgz
	(cd "$work" && npm pack --silent "$name@$version" >/dev/null)
	got=sha512-$(openssl dgst -sha512 -binary "$work"/*.tgz | openssl base64 -A)
	if [ "$got" != "$3" ]; then
		echo "$name $version has the hash $got, but $3 is required: the download was altered, or this script has the wrong hash" >&2
		exit 1
	fi
	tar -xzf "$work"/*.tgz -C "$work"
}

# begin DIR TITLE empties the folder DIR and begins its README.md with TITLE and an empty table.
begin() {
	dir=$1
	rm -rf "$dir"
	mkdir -p "$dir"
	# shellcheck disable=SC2016 # the backquotes belong to the Markdown text
	printf '# %s\n\n`make vendor-web` makes this folder. The files are unchanged.\n\n| file | package | version | licence | SHA-256 |\n|---|---|---|---|---|\n' "$2" > "$dir/README.md"
}

# take FILE AS LICENCE copies FILE of the unpacked package to DIR/AS, and adds it to the table.
take() {
	mkdir -p "$(dirname "$dir/$2")"
	cp "$work/package/$1" "$dir/$2"
	chmod 644 "$dir/$2"
	sum=$(openssl dgst -sha256 -r "$dir/$2" | cut -d ' ' -f 1)
	printf '| %s | %s | %s | %s | %s |\n' "$2" "$name" "$version" "$3" "$sum" >> "$dir/README.md"
}

begin hub/ui/vendor "Files of other projects for the pages"
unpack htmx.org 2.0.11 sha512-Thx/WtpeOQqSrqBCw/A1cwGJGg4UrVa3+sW0GmrM3p4gJgO89ecH4qtbnyzDDWFvBTqjnIMCgELTNt636dtamA==
take dist/htmx.min.js htmx.min.js 0BSD
take LICENSE htmx.LICENSE 0BSD
unpack lucide-static 1.62.0 sha512-WBZA/m2PvkFpMGHDtsBck5P2A9G4ehLlYu4GwwICcmEm1BvYVgj00lCDxKRWLlbMlOibLaiwdQ88G5pHkSWgwA==
take LICENSE lucide.LICENSE ISC
for icon in $icons; do
	take "icons/$icon.svg" "icons/$icon.svg" ISC
done

begin internal/browser/axe "Files of other projects for the tests"
unpack axe-core 4.14.1 sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==
take axe.min.js axe.min.js MPL-2.0
take LICENSE LICENSE MPL-2.0
