#!/bin/sh
# systemd runs this script as root in an emulated Debian machine. The script installs, upgrades,
# removes and purges the packages, and prints one line for each check on the console. Many emulated
# devices use the hub while it is upgraded. packages_test.go reads the lines.
#
#	/test/old/*.deb        packages of an earlier commit, with other files in /etc/default
#	/test/new/*.deb        packages of this version
#	/test/makers.pem       CA certificates of the TPM's maker
#	/test/gangway-fleet    makes the emulated devices, which belong to the account eve
#	/test/page             commands of docs/operations.md that need systemd or Debian's packages
#	/test/units            units of docs/operations.md
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
		(tail -n 20 $out && journalctl --no-pager -o cat -n 30 -u 'gangway*') | while read -r line; do say "        $line"; done
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
cp page untyped
# types runs a command exactly as the page has it, and checks that it succeeds. BEGINNING is the
# command, or the beginning of it: then types runs the first such command. The program `script` is the terminal that some programs require.
types() { # BEGINNING [ANSWER...]
	line=$(grep -Fx -m 1 -e "$1" page || awk -v begins="$1" 'index($0, begins) == 1 { print; exit }' page)
	grep -Fxv -e "$line" untyped >untyped.new
	mv untyped.new untyped
	check "the page: $line" typed "$@"
	cp $out /run/typed.out
}
typed() { # BEGINNING [ANSWER...]
	[ -n "$line" ] || return 1
	shift
	if [ $# = 0 ] && [ "${line#systemctl edit }" = "$line" ]; then
		sh -c "$line"
		return
	fi
	# The terminal's programs discard what was written before they ask.
	for answer; do
		sleep 12
		echo "$answer"
	done | script -qec "$line" /dev/null
}
# An editor for `systemctl edit`, which writes the settings in the file /test/settings.
cat >/run/editor <<'END'
#!/bin/sh
cat /test/settings >"$1"
END
chmod 755 /run/editor
export SYSTEMD_EDITOR=/run/editor
settings() { (echo '[Service]' && cat) >settings; }
printed() { grep -q -e "$1" /run/typed.out; } # by the last command of the page
# Nobody answers apt-get's questions. It keeps the changed files in /etc.
cat >/etc/apt/apt.conf.d/90test <<'END'
APT::Get::Assume-Yes "true";
DPkg::Options { "--force-unsafe-io"; "--force-confdef"; };
END
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
signs_in() { echo a long password for ada | gangway login $hub --data $data --nick ada --password-stdin; }
one_device() { [ "$(gangway device ls state:active --output csv --columns id | grep -c '^[0-9a-f]\{24\}')" = 1 ]; }
owned() { [ "$(stat -c '%U %a' "$1")" = "$2" ]; }
as_eve() { HOME=/root/eve gangway "$@"; }
# A slow machine misses starts (exit code 3), and then no operation may have failed.
fleet() { # REPORT DEVICES OPTION...
	report=$1 devices=$2
	shift 2
	./gangway-fleet run --token fleet.json --maker fleet-maker --state fleet.state --timeout 60s --json "$report" --devices "$devices" "$@"
	code=$?
	[ $code = 0 ] || { [ $code = 3 ] && ! grep -q '"errors": [1-9]' "$report"; }
}
number() { sed -n "s/^ *\"$2\": \([0-9]*\),*\$/\1/p" "$1" | head -n 1; }          # REPORT NAME
acknowledged() { sed -n "/\"kind\": \"$2\"/,/\"ok\"/s/.*\"ok\": \([0-9]*\),*/\1/p" "$1"; } # REPORT KIND
all_report() { fleet after.json "$(number during.json devices_active)" --mix report=2/s,logs=1/s --for 10s && [ "$(number after.json devices_active)" = "$(number during.json devices_active)" ]; }
onboarded_around() { [ "$(number during.json devices_active)" -gt "$aboard" ]; }
# The hub has each batch of log lines that it acknowledged, before, during and after the upgrade. A
# batch has 20 lines with the same time of the device.
has_all_logs() {
	acked=$(($(acknowledged before.json logs) + $(acknowledged during.json logs) + $(acknowledged after.json logs)))
	stored=$(as_eve device ls state:active --output csv --columns id | grep '^[0-9a-f]\{24\}' | while read -r id; do
		as_eve device logs "$id" --tail 0 --output jsonl | sed -n 's/.*\("tnano": *[0-9]*\).*\(device [0-9]*: line [0-9]*\):.*/\1 \2/p'
	done | sort -u | wc -l)
	echo "$acked batches of 20 lines were acknowledged; the hub has $stored lines" | tee logs.txt
	[ "$acked" -gt 20 ] && [ "$stored" -ge $((20 * acked)) ]
}
has_all_devices() { [ "$(as_eve device ls state:active --output csv --columns id | grep -c '^[0-9a-f]\{24\}')" -ge "$(number after.json devices_active)" ]; }
as_signer() { runuser -u gangway-signer -- "$@"; }
signer_answers() { runuser -u "$1" -- curl -fsS --max-time 10 --unix-socket /run/gangway-signer/socket http://signer/v1/keys/aca | grep -q 'PUBLIC KEY'; }
signed() { journalctl --no-pager -o cat -u gangway-signer | grep -q "msg=Signed. key=$1"; }
usable_keys() { gangway doctor --data $data --output json >doctor.json; ! grep -q keys-unreachable doctor.json; }
doctor_finds() { gangway doctor --data $data --backup /backup --output json | grep -q "\"code\": \"$1\""; }
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
printf 'version: 1\nsoftware_tpms: [swtpm, FAKE]\n' >policy.yaml
check "a policy admits the emulated TPM" gangway policy set policy.yaml --data $data
check "the owner signs in" signs_in

say "install: the agent"
check "gangway-agent installs" install old/gangway-agent_*.deb
check "gangway-agent.service is enabled" enabled gangway-agent.service
check "gangway-proxy.service is not enabled" not enabled gangway-proxy.service
check "without a join token the agent is skipped, not failed" skipped gangway-agent.service
# A hook with the usual tasks of hooks: replace files, also of another user, and restart a unit.
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

say "load: devices of the account eve"
aboard=6
mkdir /root/eve
check "an account for the fleet is created" sh -c "echo a long password for eve | gangway account create --data $data --nick eve --password-stdin"
check "the fleet's owner signs in" sh -c "echo a long password for eve | HOME=/root/eve gangway login $hub --data $data --nick eve --password-stdin"
check "the fleet has a maker of TPMs" ./gangway-fleet maker fleet-maker
cat fleet-maker/*.pem >fleet-makers.pem
check "the fleet's maker is imported" gangway trust import --data $data fleet-makers.pem
check "a join token for the fleet is created" as_eve token create -o fleet.json
check "$aboard devices are aboard, and report" fleet before.json $aboard --mix report=2/s,logs=1/s --for 10s

say "upgrade, under load"
./gangway-fleet run --token fleet.json --maker fleet-maker --state fleet.state --timeout 60s --json during.json --devices 30 --onboarded $aboard \
	--mix onboard=12/m,report=2/s,logs=1/s --for 1h >during.txt 2>&1 &
load=$!
sleep 20
echo 'GANGWAY_OPTIONS="--object-quota 5GiB"' >>/etc/default/gangway
check "gangway and gangway-agent upgrade" install new/gangway_*.deb new/gangway-agent_*.deb
check "the load still runs" kill -0 $load
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
sleep 20
kill -TERM $load
wait $load
ended=$?
say "        $(number during.json devices_active) devices of the fleet are active"
check "the load ran until the test stopped it" [ $ended = 4 ]
check "devices onboarded around the upgrade" onboarded_around
check "every device of the fleet reports, with its old certificate" all_report
check "the hub lists every device that it acknowledged" has_all_devices
check "the hub has every log line that it acknowledged" has_all_logs
say "        $(cat logs.txt)"

say "stop and start"
check "the hub stops" systemctl stop gangway.service
check "gangway fsck finds nothing" runuser -u gangway -- gangway fsck --data $data
check "the stopped hub does not answer" not answers
check "the hub starts" systemctl start gangway.service
check "the hub answers /healthz after the start" within 180 answers
check "the agent and its proxy stop" systemctl stop gangway-agent.service gangway-proxy.service
check "no unit of Gangway has failed" no_failed_units

say "install: the signer, with keys in SoftHSM"
cp new/gangway-signer_*.deb gangway-signer_1.2.0_amd64.deb
types "apt-get install softhsm2 ./gangway-signer"
check "gangway-signer.service is not enabled" not enabled gangway-signer.service
check "the folder of the PIN is root's, mode 700" owned /etc/gangway-signer "root 700"
types "adduser gangway-signer softhsm"
settings <<'END'
ReadWritePaths=/var/lib/softhsm/tokens
PrivateNetwork=yes
IPAddressDeny=any
RestrictAddressFamilies=
RestrictAddressFamilies=AF_UNIX
END
types "systemctl edit gangway-signer"
types "install -m 600 /dev/null /etc/gangway-signer/pin"
echo 648219 >/etc/gangway-signer/pin
check "only root may read the PIN" owned /etc/gangway-signer/pin "root 600"
types "install -m 600 -o gangway-signer /etc/gangway-signer/pin"
types "runuser -u gangway-signer -- softhsm2-util" 73918264 73918264 648219 648219
for key in aca device-ca tls-ca; do
	types "runuser -u gangway-signer -- gangway-signer create-key $key"
done
types "rm /run/pin"
cat >>/etc/default/gangway-signer <<'END'
GANGWAY_SIGNER_MODULE=/usr/lib/softhsm/libsofthsm2.so
GANGWAY_SIGNER_TOKEN=gangway
GANGWAY_SIGNER_KEY=aca,device-ca,tls-ca
END
types "systemctl enable --now gangway-signer"
check "its socket is there" within 30 kept /run/gangway-signer/socket
types "journalctl -u gangway-signer"
check "the log says that the signer is ready" printed "The signer is ready"
check "the socket belongs to the signer and the group gangway" sh -c "[ \"\$(stat -c '%U %G %a' /run/gangway-signer/socket)\" = 'gangway-signer gangway 660' ]"
check "the signer runs as the user gangway-signer" runs_as gangway-signer.service gangway-signer
check "the user gangway may use the signer" signer_answers gangway
check "root may use the signer" signer_answers root
check "another user may not use the signer" not signer_answers nobody
check "the socket's folder is for the signer and the group gangway" owned /run/gangway-signer "gangway-signer 750"
check "another user of the group gangway may not use the signer" not runuser -u nobody -G gangway -- curl -fsS --max-time 10 --unix-socket /run/gangway-signer/socket http://signer/v1/keys/aca
check "the signer logs the refusals" sh -c 'journalctl --no-pager -o cat -u gangway-signer | grep -q "Refused a connection.*user=65534"'
types "systemd-analyze security gangway-signer"
check "systemd-analyze prints the exposure level" printed "Overall exposure level"
check "the signer's exposure level is 0.5 at most, without a network" exposed gangway-signer.service 5
at='signer:/run/gangway-signer/socket?key='
check "the hub's CAs get keys in SoftHSM: request" gangway ca request --data $data --ca aca --ca device-ca --ca tls-ca --key "aca=${at}aca" --key "device-ca=${at}device-ca" --key "tls-ca=${at}tls-ca" -o request.pem
check "the hub's CAs get keys in SoftHSM: issue" gangway ca issue request.pem --root $data/pki --yes -o answer.pem
check "the hub's CAs get keys in SoftHSM: install" gangway ca install answer.pem --data $data
types "systemctl restart gangway"
check "the hub answers /healthz, with a certificate from SoftHSM" within 180 answers
check "gangway doctor reaches the keys" usable_keys
check "the hub's unit signs through the socket: a device onboards" fleet signer.json $(($(number after.json devices_active) + 1)) --onboarded $(($(number after.json devices_active) + 1)) --mix report=1/s --for 5s
for key in aca device-ca tls-ca; do check "the signer signed with $key" signed $key; done
check "the signer has no access to the network" not nsenter --target "$(systemctl show -p MainPID --value gangway-signer)" --net grep -q eth0 /proc/net/dev
check "gangway-signer is upgraded while it runs" install new/gangway-signer_*.deb
check "the new program runs: signer" within 30 runs_installed gangway-signer.service /usr/bin/gangway-signer
check "the signer answers after the upgrade" within 30 signer_answers gangway

say "the hub's unit, as docs/operations.md says"
types "chown -R gangway: /var/lib/gangway"
settings <<'END'
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
AmbientCapabilities=CAP_NET_BIND_SERVICE
PrivateUsers=no
PrivateDevices=no
DevicePolicy=closed
DeviceAllow=/dev/tpmrm0 rw
SupplementaryGroups=tss
END
types "systemctl edit gangway"
sed -i '/^GANGWAY_OPTIONS=/s/5GiB"/5GiB --listen :443"/' /etc/default/gangway
types "ls -l /dev/tpmrm0"
check "the group tss may use the TPM" printed " tss "
types "usermod -aG tss gangway"
check "the hub's user may use the TPM" runuser -u gangway -- test -r /dev/tpmrm0 -a -w /dev/tpmrm0
types "systemctl stop gangway"
check "the hub does not run" not active gangway.service
types "systemctl start gangway"
check "the hub answers at port 443" within 180 curl -fsS --max-time 20 --cacert $data/pki/root.crt "https://$(hostname):443/healthz"
check "the hub's process has the group tss" sh -c "grep '^Groups:' $(process gangway)/status | grep -qw \"\$(getent group tss | cut -d: -f3)\""
types "journalctl -u gangway -n 50"
check "the log shows the hub" printed "gangway"

say "backup and restore, as docs/operations.md says"
mkdir /backup /srv/another-machine
check "a file system is mounted at /backup" mount --bind /srv/another-machine /backup
types "install -d -m 700 -o gangway -g gangway /backup"
check "the folder of the backups is the hub's user's" owned /backup "gangway 700"
key=$(gangway backup key backup.key) || say "FAILED  gangway backup key"
recipient=$(echo "$key" | grep -o 'age1[0-9a-z]*' | head -n 1)
hub_name=$(gangway doctor --data $data | grep -o 'hub name is [0-9a-f]*' | cut -d' ' -f4)
export HUB_NAME="$hub_name"
for unit in units/*; do
	sed "s/age1\.\.\./$recipient/" "$unit" >"/etc/systemd/system/$(basename "$unit")"
done
types "systemctl enable --now gangway-backup.timer"
check "the timers run" systemctl --quiet is-active gangway-backup.timer gangway-events.timer
types "systemctl start gangway-backup gangway-events"
check "the doctor finds the export" doctor_finds export
umount /backup
check "without the mount, no backup is made" not systemctl start gangway-backup
check "without the mount, no events are exported" not systemctl start gangway-events
check "without the mount, nothing is on the hub's own disk" [ -z "$(ls -A /backup)" ]
mount --bind /srv/another-machine /backup
types "journalctl -u gangway-backup"
check "the log shows the backup" printed "gangway-backup"
check "the folder has a backup and the events" sh -c 'ls /backup/*.gangway-backup && [ -s /backup/since.jsonl ]'
types "chown -R gangway: /backup"
types "install -d -m 755 /etc/gangway"
types "install -m 400 -o gangway -g gangway /dev/null /etc/gangway/database-password"
check "only the hub's user may read the file of the password" owned /etc/gangway/database-password "gangway 400"
chown nobody /etc/gangway/database-password
types "chown gangway: /etc/gangway/database-password"
check "the file of the password is the hub's user's again" owned /etc/gangway/database-password "gangway 400"
types "systemctl stop gangway"
types "cp /backup/since.jsonl since.jsonl"
types "gangway events --data /var/lib/gangway --since 336h"
check "the events are in the file" [ -s since.jsonl ]
types "mv /var/lib/gangway /var/lib/gangway.old"
types "gangway restore "
types "chown -R gangway: /var/lib/gangway"
types "systemctl start gangway"
check "the restored hub listens" within 180 gangway ready --data $data
types "gangway ready --data"
check "gangway ready says so" printed "^ready"
check "the restored hub knows the device" within 60 admitted
check "the restore ended the owner's session" not one_device
check "the owner signs in again" signs_in
rm -r /var/lib/gangway.old

say "to another machine, as docs/operations.md says"
types "systemctl disable --now gangway gangway-backup.timer"
check "the hub does not run, and does not start with the machine" not sh -c 'systemctl is-active gangway || systemctl is-enabled gangway'
for timer in gangway-backup.timer gangway-events.timer; do
	check "$timer does not run, and does not start with the machine" not sh -c "systemctl is-active $timer || systemctl is-enabled $timer"
done
chown -R nobody /backup
rm /backup/since.jsonl
check "systemd reads the units" systemctl daemon-reload
types "systemctl enable --now gangway"
check "the hub answers on the new machine" within 180 answers
types "chown -R gangway: /backup"
check "the backups are the hub's user's" owned /backup "gangway 700"
types "systemctl enable --now gangway-backup.timer gangway-events.timer"
check "the timers run" systemctl --quiet is-active gangway-backup.timer gangway-events.timer
check "the services can write" systemctl start gangway-backup gangway-events
check "the export is there" [ -s /backup/since.jsonl ]

say "the older package, as docs/operations.md says"
cp old/gangway_*.deb gangway_1.1.0_amd64.deb
types "systemctl disable --now gangway"
types "mv /var/lib/gangway /var/lib/gangway.new"
types "apt-get install --allow-downgrades ./gangway_1.1.0"
check "gangway has the old version" version gangway old
check "the package does not start a disabled hub" not active gangway.service
check "the old program made no keys" gone $data/pki
[ -d $data ] && rmdir $data
mv /var/lib/gangway.new $data
check "gangway is upgraded again" install new/gangway_*.deb
check "the upgrade does not start a disabled hub" not active gangway.service
types "systemctl enable --now gangway"
check "the hub answers again" within 180 answers

say "remove"
systemctl start gangway-agent.service
check "all packages are removed" dpkg --force-unsafe-io -r gangway-signer gangway gangway-agent
check "the signer does not run" not active gangway-signer.service
check "the PIN and the token are kept" kept /etc/gangway-signer/pin /etc/default/gangway-signer /var/lib/softhsm/tokens
check "the hub does not run" not active gangway.service
check "the agent does not run" not active gangway-agent.service
check "the programs are gone" gone /usr/bin/gangway /usr/bin/gangway-agent /usr/lib/gangway /usr/share/man/man1/gangway.1.gz
check "the data is kept" kept $data/gangway.db $data/pki/root.crt $state/state.json $token
check "the conffiles are kept" kept /etc/default/gangway /etc/default/gangway-agent

say "install again"
cp new/gangway_*.deb gangway_1.2.0_amd64.deb
types "apt-get install ./gangway_1.2.0"
check "the agent and the signer install" install new/gangway-agent_*.deb new/gangway-signer_*.deb
check "the signer starts again, because it is enabled" within 60 signer_answers gangway
check "the hub answers /healthz, with the same CA" within 180 answers
check "the agent is active" within 30 active gangway-agent.service
check "the hub lists the device" within 60 one_device

say "an empty hub, and its end, as docs/operations.md says"
former=$(sha256sum <$data/pki/root.crt)
types "systemctl disable --now gangway"
types "rm -r /var/lib/gangway/*"
check "the data folder is empty" [ -z "$(ls -A $data)" ]
types "systemctl enable --now gangway"
check "a new hub answers" within 180 answers
check "the new hub has new keys" [ "$(sha256sum <$data/pki/root.crt)" != "$former" ]
types "systemctl disable --now gangway-backup.timer"
check "the timers do not run" not systemctl --quiet is-active gangway-backup.timer
rm /etc/systemd/system/gangway-backup.* /etc/systemd/system/gangway-events.*

say "purge"
types "apt-get purge gangway-signer"
types "apt-get purge gangway"
check "the agent is purged" dpkg --force-unsafe-io -P gangway-agent
check "each command of the page that needs this machine was typed: $(cat untyped)" [ ! -s untyped ]
check "no program of Gangway runs" no_processes
check "data, conffiles and join token are gone" gone $data $state $token /etc/default/gangway /etc/default/gangway-agent
check "the signer's PIN and conffile are gone" gone /etc/gangway-signer /etc/default/gangway-signer /usr/bin/gangway-signer
check "the keys in the HSM are kept" sh -c '[ -n "$(ls /var/lib/softhsm/tokens)" ]'
check "no link to a unit is left" no_links
check "dpkg knows none of the packages" sh -c '! dpkg-query -W gangway && ! dpkg-query -W gangway-agent && ! dpkg-query -W gangway-signer'
check "dpkg has no complaints" tidy

finish
