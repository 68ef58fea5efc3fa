#!/bin/sh
# Installs the programs of a folder: scripts/make-install.sh BUILD DESTDIR PREFIX
#
#	PREFIX/bin              gangway, gangway-agent; gangway-signer, if 'make signer' built it
#	PREFIX/lib/gangway      gangway-init and gangway-agent, which go into images
#	PREFIX/share            man pages; completions for bash, zsh and fish
#	PREFIX/lib/systemd      units; nothing is enabled or started
set -eu
cd "$(dirname "$0")/.."
build=$1 to=$2$3 prefix=$3
case $prefix in
/*) ;;
*)
	echo "PREFIX must be an absolute path, not $prefix." >&2
	exit 2
	;;
esac
for program in gangway gangway-agent gangway-init; do
	if [ ! -x "$build/$program" ]; then
		echo "There is no $build/$program: run 'make build' first." >&2
		exit 1
	fi
done
install -d "$to/bin" "$to/lib/gangway" "$to/lib/systemd/system" "$to/share"
install -m 755 "$build/gangway" "$build/gangway-agent" "$to/bin/"
install -m 755 "$build/gangway-agent" "$build/gangway-init" "$to/lib/gangway/"
install -m 644 contrib/*.service "$to/lib/systemd/system/"
programs="gangway gangway-agent"
if [ -x "$build/gangway-signer" ]; then
	install -m 755 "$build/gangway-signer" "$to/bin/"
	programs="$programs gangway-signer"
else
	rm "$to/lib/systemd/system/gangway-signer.service"
fi
for program in $programs; do
	"$to/bin/$program" docs "$to/share"
done
# zsh looks for the completions of distributions' packages in vendor-completions, and of others in
# site-functions.
if [ "$prefix" != /usr ]; then
	install -d "$to/share/zsh/site-functions"
	mv "$to"/share/zsh/vendor-completions/_gangway* "$to/share/zsh/site-functions/"
	rmdir "$to/share/zsh/vendor-completions"
fi
echo "Installed in $to. For a unit: systemctl daemon-reload && systemctl enable --now gangway" >&2
