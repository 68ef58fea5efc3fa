#!/bin/sh
# Makes the pictures of pages in docs/pictures from those that `make screenshots` has taken.
set -eu
cd "$(dirname "$0")/.."

# picture NAME SCREENSHOT WIDTH
picture() {
	./scripts/small-picture.sh "build/screenshots/$2.png" "docs/pictures/page-$1.png" "$3"
}
picture wall wall-arrivals-wall-dark 1280
picture waiting waiting-alike-desk-light 1280
picture claim claim-of-a-machine-phone-light 390
picture arrival arrival-aboard-phone-light 390
