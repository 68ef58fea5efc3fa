#!/bin/sh
# Makes a small picture for the docs from a screenshot: small-picture.sh FROM TO WIDTH. A picture
# with 128 colours is a quarter as large, and nobody sees the difference.
set -eu

if ! command -v ffmpeg >/dev/null 2>&1; then
	echo "ffmpeg is missing: apt-get install ffmpeg" >&2
	exit 1
fi
small=$(mktemp --suffix=.png)
trap 'rm -f "$small"' EXIT
ffmpeg -nostdin -loglevel error -y -i "$1" -update 1 -frames:v 1 \
	-vf "scale=$3:-1:flags=lanczos,split[a][b];[a]palettegen=max_colors=128[p];[b][p]paletteuse=dither=none" "$small"
cat "$small" >"$2"
