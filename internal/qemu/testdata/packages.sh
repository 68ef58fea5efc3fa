#!/bin/sh
# systemd runs this script as root in an emulated Debian machine. The script installs, upgrades,
# removes and purges the packages, and prints one line for each check on the console.
# packages_test.go reads these lines.
#
#	/test/old/*.deb    packages of the previous version, with other files in /etc/default
#	/test/new/*.deb    packages of this version
#	/test/makers.pem   CA certificates of the TPM's maker
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive
exec </dev/null
cd /test || exit 1
data=/var/lib/gangway
state=/var/lib/gangway-agent
token=/etc/gangway/device_autojointoken.json
hub=https://$(hostname):12443
out=/run/package-test.out

say() { echo "package-test: $*" >/dev/console; }
check() { # WHAT COMMAND...
	what=$1
	shift
	if "$@" >$out 2>&1; then
		say "ok      $what"
	else
		say "FAILED  $what"
		(tail -n 5 $out && journalctl --no-pager -o cat -n 30 -u 'gangway*') | while read -r line; do say "        $line"; done
		finish # the later checks would fail too
	fi
}
finish() {
	say "done"
	sync
	systemctl poweroff
	exit
}
not() { ! "$@"; }
within() { # SECONDS COMMAND...
	end=$(($(date +%s) + $1))
	shift
	until "$@"; do
		[ "$(date +%s)" -lt $end ] || return 1
		sleep 1
	done
}
install() { dpkg --force-confdef --force-unsafe-io -i "$@"; }
active() { systemctl --quiet is-active "$1"; }
enabled() { systemctl --quiet is-enabled "$1"; }
answers() { curl -fsS --max-time 20 --cacert $data/pki/root.crt "$hub/healthz"; }
version() { [ "$(dpkg-query -W -f '${Version}' "$1")" = "$(dpkg-deb -f "$2"/"$1"_*.deb Version)" ]; }
process() { echo "/proc/$(systemctl show -p MainPID --value "$1")"; }
runs_as() { [ "$(stat -c %U "$(process "$1")")" = "$2" ]; }
# The service's process runs the file on the disk, not a deleted file of the previous version.
runs_installed() { [ "$(readlink "$(process "$1")/exe")" = "$2" ]; }
has_option() { tr '\0' ' ' <"$(process "$1")/cmdline" | grep -q -- "$2"; }
no_processes() {
	for exe in /proc/[0-9]*/exe; do
		case $(readlink "$exe") in */gangway*) return 1 ;; esac
	done
}
no_links() { [ -z "$(find /etc/systemd/system /var/lib/systemd -name 'gangway*.service')" ]; }
skipped() {
	[ "$(systemctl show -p ConditionResult --value "$1")" = no ] && [ "$(systemctl show -p ActiveState --value "$1")" = inactive ]
}
measured() { gangway-agent status | grep '^boot' | grep -qv unmeasured; }
proxied() { curl -fsS --max-time 20 --unix-socket /run/gangway/hub.sock http://localhost/device | grep -q user-meta; }
exposed() { systemd-analyze security --no-pager "--threshold=$2" "$1"; } # THRESHOLD is the highest allowed exposure level, in tenths
admitted() { gangway-agent status --ask | grep -q '^phase *active$'; }
kept() { for path; do [ -e "$path" ] || return 1; done; }
gone() { for path; do [ ! -e "$path" ] && [ ! -L "$path" ] || return 1; done; }
onboarded() { gangway-agent status | grep -q '^phase *active$'; }
one_device() { [ "$(gangway device ls state:active --output csv --columns id | grep -c '^[0-9a-f]\{24\}')" = 1 ]; }
owned() { [ "$(stat -c '%U %a' "$1")" = "$2" ]; }
tidy() { dpkg --audit && [ -z "$(dpkg --audit)" ]; }
no_failed_units() { [ -z "$(systemctl list-units --failed --plain --no-legend 'gangway*')" ]; }

say "Debian $(cat /etc/debian_version), Linux $(uname -r), $(systemctl --version | head -n 1)"

say "install: the hub"
check "gangway installs" install old/gangway_*.deb
check "gangway.service is enabled" enabled gangway.service
check "gangway.service is active" active gangway.service
check "the hub answers /healthz" within 180 answers
check "its data folder is the user gangway's, mode 700" owned $data "gangway 700"
check "the hub runs as the user gangway" runs_as gangway.service gangway
check "the hub's exposure level is 2.0 at most" exposed gangway.service 20
check "an account is created as root" sh -c "echo a long password for ada | gangway account create --data $data --nick ada --password-stdin"
check "makers of TPMs are imported as root" gangway trust import --data $data makers.pem
printf 'version: 1\nsoftware_tpms: [swtpm]\n' >policy.yaml
check "a policy admits the emulated TPM" gangway policy set policy.yaml --data $data
check "the owner signs in" sh -c "echo a long password for ada | gangway login $hub --data $data --nick ada --password-stdin"

say "install: the agent"
check "gangway-agent installs" install old/gangway-agent_*.deb
check "gangway-agent.service is enabled" enabled gangway-agent.service
check "gangway-proxy.service is not enabled" not enabled gangway-proxy.service
check "without a join token the agent is skipped, not failed" skipped gangway-agent.service
# A hook that does what hooks usually need: replace files, also of another user, and restart a unit.
cat >/usr/local/bin/test-hook <<'END'
#!/bin/sh
set -e
echo "$1" >/srv/installed.new
chown nobody /srv/installed.new
mv /srv/installed.new /srv/installed
systemctl restart test-app.service
END
chmod 755 /usr/local/bin/test-hook
cat >/etc/systemd/system/test-app.service <<'END'
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo started >>/run/test-app'
END
mkdir -p /etc/systemd/system/gangway-agent.service.d
cat >/etc/systemd/system/gangway-agent.service.d/hook.conf <<'END'
[Service]
Environment="GANGWAY_AGENT_OPTIONS=--report-every 5s --user-meta-hook /usr/local/bin/test-hook"
ReadWritePaths=/srv
END
check "a join token is created" gangway token create -o $token
check "systemd reads the drop-in" systemctl daemon-reload
check "gangway-agent.service starts" systemctl start gangway-agent.service
check "the machine onboards with its TPM" within 180 onboarded
check "the hub lists the device" within 30 one_device
check "the boot was measured" within 60 measured
check "the hook wrote a file and gave it to another user" within 60 owned /srv/installed "nobody 644"
check "the hook restarted a unit" within 20 kept /run/test-app
check "gangway-proxy.service starts" systemctl start gangway-proxy.service
check "the proxy serves the device's record" within 60 proxied
check "the proxy's exposure level is 2.0 at most" exposed gangway-proxy.service 20
check "the agent's exposure level is 2.5 at most" exposed gangway-agent.service 25

say "upgrade"
echo 'GANGWAY_OPTIONS="--object-quota 5GiB"' >>/etc/default/gangway
check "gangway and gangway-agent upgrade" install new/gangway_*.deb new/gangway-agent_*.deb
check "gangway has the new version" version gangway new
check "gangway-agent has the new version" version gangway-agent new
check "the hub answers /healthz" within 180 answers
check "the new program runs: hub" runs_installed gangway.service /usr/bin/gangway
check "the new program runs: agent" runs_installed gangway-agent.service /usr/bin/gangway-agent
check "the new program runs: proxy" within 60 runs_installed gangway-proxy.service /usr/bin/gangway-agent
check "a changed conffile is kept" grep -q "^GANGWAY_OPTIONS=" /etc/default/gangway
check "the changed conffile is not that of the new version" grep -q "previous version" /etc/default/gangway
check "the hub runs with the setting in the changed conffile" has_option gangway.service "--object-quota 5GiB"
check "an unchanged conffile is replaced" not grep -q "previous version" /etc/default/gangway-agent
check "the machine is still onboarded, the same device" within 60 admitted
check "the hub lists one device" within 30 one_device

say "stop and start"
check "the hub stops" systemctl stop gangway.service
check "the stopped hub does not answer" not answers
check "the hub starts" systemctl start gangway.service
check "the hub answers /healthz after the start" within 180 answers
check "the agent and its proxy stop" systemctl stop gangway-agent.service gangway-proxy.service
check "no unit of Gangway has failed" no_failed_units

say "remove"
systemctl start gangway-agent.service
check "both packages are removed" dpkg --force-unsafe-io -r gangway gangway-agent
check "the hub does not run" not active gangway.service
check "the agent does not run" not active gangway-agent.service
check "the programs are gone" gone /usr/bin/gangway /usr/bin/gangway-agent /usr/lib/gangway /usr/share/man/man1/gangway.1.gz
check "the data is kept" kept $data/gangway.db $data/pki/root.crt $state/state.json $token
check "the conffiles are kept" kept /etc/default/gangway /etc/default/gangway-agent

say "install again"
check "both packages install" install new/gangway_*.deb new/gangway-agent_*.deb
check "the hub answers /healthz, with the same CA" within 180 answers
check "the agent is active" within 30 active gangway-agent.service
check "the hub lists the device" within 60 one_device

say "purge"
check "both packages are purged" dpkg --force-unsafe-io -P gangway gangway-agent
check "no program of Gangway runs" no_processes
check "data, conffiles and join token are gone" gone $data $state $token /etc/default/gangway /etc/default/gangway-agent
check "no link to a unit is left" no_links
check "dpkg knows neither package" sh -c '! dpkg-query -W gangway && ! dpkg-query -W gangway-agent'
check "dpkg has no complaints" tidy

finish
