package docs_test

import (
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gangway/internal/connectproxy"
	"gangway/internal/swtpm"
)

func TestTrustPage(t *testing.T) {
	t.Parallel()
	r := enter(t)
	if r == nil {
		return
	}
	r.aHub()
	p := r.page("docs/trust.md")
	p.types("gangway trust ls")
	r.types("cp /root/makers.pem maker.crt && gcab -c TrustedTpm.cab maker.crt")
	p.types("gangway trust import")
	p.types("gangway trust remove")
	p.types("gangway trust restore")
	// From here on, the machine has the TPM of a maker that the hub does not know.
	tpm, err := swtpm.New(t.Context(), t.TempDir(), swtpm.Options{EK: swtpm.RSA2048, Maker: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tpm.Stop)
	r.plugged(tpm)
	p.types("tpm2_nvread 0x01c00002")
	if out, err := r.run(p.next("gangway trust check ek.crt")); err == nil || !strings.Contains(out, "not trusted") {
		t.Errorf("a certificate of an unknown maker should not be trusted: %v\n%s", err, short(out))
	}
	r.types("gangway token create -o device_autojointoken.json")
	r.types("gangway-agent run --token-file device_autojointoken.json")
	r.says("gangway-agent run", "waiting for the owner")
	p.types("gangway device ls")
	r.env = append(r.env, "WAITING_ID="+r.onlyID("gangway device waiting --output json"))
	p.types("gangway device show")
	p.types("gangway device approve")
	p.done()
}

func TestAgentPage(t *testing.T) {
	t.Parallel()
	r := enter(t)
	if r == nil {
		return
	}
	r.aHub()
	r.types("mkdir /etc/gangway")
	r.types("gangway token create -o /etc/gangway/device_autojointoken.json")
	r.writes("/usr/local/lib/gangway/hook", "#!/bin/sh\n", 0o755)
	p := r.page("docs/agent.md")
	p.types("gangway-agent run --token-file")
	r.connected()
	if out := p.types("gangway-agent doctor"); !strings.Contains(out, "The hub accepts this device") {
		t.Errorf("doctor prints\n%s", out)
	}
	p.elsewhere("gangway-agent console", "TestConsoleOnATerminal")
	ca := connectproxy.NewCA(t, "the proxy's CA")
	plain := connectproxy.New(t, connectproxy.Config{Listen: "127.0.0.1:3128"})
	secure := connectproxy.New(t, connectproxy.Config{Listen: "127.0.0.1:3129", TLS: ca.Server(t, "proxy.example")})
	p.types("gangway-agent run --proxy http://proxy.example:3128")
	r.connected()
	r.writes("proxy-ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate.Raw})), 0o644)
	p.types("gangway-agent run --proxy https://proxy.example:3129")
	r.connected()
	if len(plain.Seen()) == 0 || len(secure.Seen()) == 0 {
		t.Errorf("the proxies saw %d and %d connections", len(plain.Seen()), len(secure.Seen()))
	}
	before := len(plain.Seen())
	r.writes("/etc/gangway/network.txt", "version = 1\nproxy = http://proxy.example:3128\n", 0o600)
	p.types("gangway-agent run --network-file")
	r.connected()
	if len(plain.Seen()) == before {
		t.Error("the proxy of network.txt saw no connection")
	}
	r.types("mkdir /btools && cp /usr/local/bin/gangway-agent /btools")
	p.types("ln -s gangway-agent /btools/ext-gangway.register")
	p.types("ln -s gangway-agent /btools/ext-gangway.login")
	p.done()
}

func TestBootPage(t *testing.T) {
	t.Parallel()
	r := enter(t)
	if r == nil {
		return
	}
	r.aHub()
	p := r.page("docs/boot.md")
	p.types("gangway manifest key create")
	p.elsewhere("gangway boot key add", "cmd/gangway/testdata/boot.txt")
	p.elsewhere("gangway image build", "TestImageWithManifest")
	p.elsewhere("gangway boot manifest add", "TestManifestsDecideWhatIsExpected")
	p.elsewhere("gangway image system", "TestSystemWithManifest")
	p.elsewhere("gangway boot manifest add", "TestManifestsDecideWhatIsExpected")
	p.types("gangway boot cohorts")
	p.types("gangway boot cohorts --part")
	p.done()
}

func TestScalePage(t *testing.T) {
	t.Parallel()
	r := enter(t)
	if r == nil {
		return
	}
	r.installed()
	p := r.page("docs/scale.md")
	p.types("gangway-fleet maker")
	p.types("gangway serve --data ./test-hub")
	p.types("printf")
	r.account(p.next("gangway account create"))
	p.types("gangway login")
	p.types("gangway token create")
	for len(p.lines) > 0 {
		out, err := r.run(p.next("gangway-fleet run"))
		// On a slow machine, some operations cannot start at their planned time. Then gangway-fleet
		// ends with the exit code 3, which is not an error in this test.
		if exit := (*exec.ExitError)(nil); err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 3) {
			t.Errorf("%v: %s", err, short(out))
		}
		if !strings.Contains(out, "p99.9 ms") || strings.Contains(out, " failed: ") {
			t.Errorf("the run's tables:\n%s", out)
		}
	}
	p.done()
}

func TestDeviceToolsPage(t *testing.T) {
	t.Parallel()
	r := enter(t)
	if r == nil {
		return
	}
	r.aHub()
	r.aDevice()
	p := r.page("docs/device-tools.md")
	r.types("groupadd gangway && mkdir /run/gangway")
	p.types("gangway-agent proxy")
	r.await("gangway-agent proxy", "its socket is there", func() bool {
		_, err := os.Stat("/run/gangway/hub.sock")
		return err == nil
	})
	if out := p.types("curl --unix-socket"); !strings.Contains(out, "brave-otter-3fa2") {
		t.Errorf("the device's record should be shown:\n%s", short(out))
	}
	r.end("gangway-agent proxy")
	p.types("gangway-agent export")
	p.types("cd /etc/gangway/identity")
	broker, err := r.tpm.Broker(t.Context()) // the TPM resource manager that the page requires
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Stop()
	r.env = append(r.env, append(broker.Env(), "TPM2TOOLS_TCTI="+broker.TCTI(), "TPM2OPENSSL_TCTI="+broker.TCTI())...)
	// Skip this command, because Debian 12's curl is too old for it. The page says so.
	curl := p.next("curl --engine")
	newer := r.repository("build/curl/curl")
	if _, err := os.Stat(newer); err == nil {
		curl = newer + strings.TrimPrefix(curl, "curl")
	}
	if out := r.types(curl); !strings.Contains(out, "brave-otter-3fa2") {
		t.Errorf("the device's record should be shown:\n%s", short(out))
	}
	p.types("export OPENSSL_CONF")
	if out := r.types(p.next("openssl s_client") + " </dev/null"); !strings.Contains(out, "Verify return code: 0 (ok)") {
		t.Errorf("the hub should be verified:\n%s", short(out))
	}
	r.env = append(r.env, "OPENSSL_CONF=/etc/ssl/openssl.cnf")
	r.types("cd ~/work")
	r.types("ln -s " + r.repository("examples") + " examples")
	p.types("examples/onboard.sh device_autojointoken.json")
	p.types("examples/onboard.sh --two-steps")
	r.types(substitute(p.next("examples/device.py"), broker.TCTI()))
	p.done()
}

func TestOperationsPage(t *testing.T) {
	t.Parallel()
	r := enter(t)
	if r == nil {
		return
	}
	p := r.page("docs/operations.md")
	r.installed()
	tpm := r.hasTPM()
	p.types("gangway serve")
	r.account(p.next("gangway account create"))
	r.trusts(tpm)
	r.types("mkdir -p gangway-1.2.0-linux-amd64/share gangway-1.2.0-linux-amd64/lib && mv /usr/local/bin gangway-1.2.0-linux-amd64/bin && mkdir /usr/local/bin")
	r.types("tar -czf gangway-1.2.0-linux-amd64.tar.gz gangway-1.2.0-linux-amd64 && rm -r gangway-1.2.0-linux-amd64")
	p.types("tar -xzf")
	p.types("cp -r gangway-1.2.0-linux-amd64")
	p.types("useradd --system")
	r.certificate("fleet.example", "/etc/ssl/fleet")
	p.types("gangway serve")
	if out := r.types("curl -sS --cacert /etc/ssl/fleet.ca --resolve fleet.example:443:127.0.0.1 https://fleet.example/healthz"); !strings.Contains(out, "ok") {
		t.Errorf("a request to the web pages' own host name answers %s", short(out))
	}
	r.types("mkdir -p /etc/letsencrypt/live/fleet.example")
	r.types("mv /etc/ssl/fleet.key /etc/letsencrypt/live/fleet.example/privkey.pem && mv /etc/ssl/fleet.crt /etc/letsencrypt/live/fleet.example/fullchain.pem")
	p.types("install -m 640")
	p.types("install -m 644")
	if out := r.types("runuser -u gangway -- cat /etc/ssl/fleet.key /etc/ssl/fleet.crt"); !strings.Contains(out, "PRIVATE KEY") {
		t.Errorf("the hub's user cannot read the key: %s", short(out))
	}
	p.types("gangway serve")
	login := "gangway login https://hub.example:12443 --hub-name $HUB_NAME --nick ada"
	r.types(login)
	if out := r.types("gangway open --print"); !strings.Contains(out, "https://fleet.example/ui/overview") {
		t.Errorf("gangway open should lead to the web pages' own host name: %s", short(out))
	}
	for _, begins := range []string{
		"gangway ca init", "gangway ca request", "gangway ca issue", "gangway ca install", "gangway serve", "gangway ca show",
		"gangway ca request", "gangway ca issue", "gangway ca install",
		"gangway ca request", "gangway ca issue", "gangway ca install", "mkdir", "cp", "cmp", "rm", "rm",
		"tpm2_getcap", "gangway ca request", "gangway ca issue", "gangway ca install", "gangway ca init",
		"gangway-signer create-key", "gangway-signer create-key", "gangway-signer create-key", "gangway-signer serve",
		"gangway ca request", "gangway ca issue", "gangway ca install",
		"gangway-signer create-key", "gangway-signer serve", "gangway ca init",
	} {
		p.elsewhere(begins, "TestOperationsKeysOfTheCAs")
	}
	r.types("gangway token create --nick intruder -o intruder.json")
	r.env = append(r.env, "TOKEN_ID="+r.onlyID("gangway token ls --output json"))
	p.types("gangway account disable")
	r.answers["Password: "] = r.password(p.types("gangway account passwd"))
	if out := p.types("gangway events --data"); !strings.Contains(out, `"intruder" was created`) {
		t.Errorf("the intruder's join token should be in the audit trail:\n%s", short(out))
	}
	p.types("gangway token ls --data")
	p.types("gangway token disable")
	p.types("gangway account enable")
	r.types(login)
	if out := r.types("gangway token ls"); !strings.Contains(out, "disabled") {
		t.Errorf("the intruder's join token should be disabled:\n%s", short(out))
	}
	p.types("gangway account create")
	p.types("gangway account operator")
	p.types("gangway account operator")
	p.types("gangway api-token create ci")
	p.types("gangway api-token ls")
	p.types("gangway login")
	if out := r.types("gangway device ls"); strings.Contains(out, "refused") {
		t.Errorf("the API token does not work: %s", short(out))
	}
	r.types(login)
	p.types("gangway api-token revoke ci")
	p.types("gangway events --since")
	p.types("gangway events --data")
	r.types("mkdir /var/lib/gangway/tpm-roots && cp /root/makers.pem /var/lib/gangway/tpm-roots/")
	p.types("gangway trust import")
	r.aDevice()
	r.types("gangway token create --max-uses 5 --nick limited -o limited.json")
	r.behindAProxy(p)
	p.types("gangway serve")
	p.types("gangway serve")
	r.end("gangway serve")
	p.types("sqlite3 /var/lib/gangway/gangway.db VACUUM")
	r.s3()
	p.types("AWS_ACCESS_KEY_ID=")
	r.end("gangway serve")
	r.stopS3()
	p.types("OTEL_EXPORTER_OTLP_HEADERS=")
	if out := p.types("curl -s"); !strings.Contains(out, "gangway_log_lines_lost_total") {
		t.Errorf("the metrics of the lines are\n%s", short(out))
	}
	p.elsewhere("apt-get update", "scripts/install.sh")
	r.kernel()
	r.types("ln -s /root/.cache/gangway/kernel /srv/gangway-parts")
	p.types("gangway image fetch --dir") // the files are there already, so it downloads nothing
	r.end("gangway serve")
	r.types("cp -a /var/lib/gangway /var/lib/before")
	r.postgres()
	r.env = append(r.env, "PGHOST=/run/postgresql", "PGUSER=gangway")
	r.answers["gangway=# "] = `\q`
	p.types("runuser -u postgres -- psql")
	if out := p.types("runuser -u postgres -- psql -c"); !strings.Contains(out, " t") {
		t.Errorf("the server did not read its files again: %s", short(out))
	}
	p.types("openssl req -x509")
	if out := r.types("openssl x509 -in db.pem -noout -checkhost db.example"); !strings.Contains(out, "does match") {
		t.Errorf("the certificate of the database is for another host: %s", short(out))
	}
	move, cancel := p.next("gangway db migrate --data /var/lib/gangway --to"), p.next("gangway db migrate --data /var/lib/gangway --stop")
	r.cancelsMove(move, cancel)
	if out := r.types("gangway device ls"); !strings.Contains(out, "active") {
		t.Errorf("the hub should continue with its file after the cancelled move:\n%s", short(out))
	}
	r.end("gangway serve")
	r.types(move)
	if out, err := r.run(cancel); err == nil || !strings.Contains(out, "the move is complete") {
		t.Errorf("a complete move was cancelled: %v: %s", err, short(out))
	}
	p.types("gangway serve")
	r.types(login)
	if out := r.types("gangway device ls"); !strings.Contains(out, "active") {
		t.Errorf("the device should be in the database in PostgreSQL:\n%s", short(out))
	}
	if out := p.types("gangway backup record"); !strings.Contains(out, "Recorded a backup") {
		t.Errorf("gangway backup record prints %s", short(out))
	}
	r.end("gangway serve")
	// From here on, the hub uses the database file again.
	r.types("rm -r /var/lib/gangway && mv /var/lib/before /var/lib/gangway")
	r.types("mkdir /backup && mkdir -p /var/lib/gangway/objects")
	r.env = append(r.env, "RECIPIENT="+regexp.MustCompile(`age1[0-9a-z]+`).FindString(p.types("gangway backup key")))
	p.types("gangway backup --data")
	p.types("gangway backup verify")
	p.types("gangway backup check")
	r.types("mv /backup /backup.encrypted && mkdir /backup")
	p.types("sqlite3 /var/lib/gangway/gangway.db")
	p.types("cp -a /var/lib/gangway/pki")
	p.types("cp -a /var/lib/gangway/objects")
	r.types("mv /var/lib/gangway /var/lib/gangway.old")
	r.types("gangway restore $(ls /backup.encrypted/*.gangway-backup | tail -n 1) --data /var/lib/gangway --identity backup.key --hub-name $HUB_NAME --without-events")
	p.types("gangway restore lost")
	r.env = append(r.env, "TOKEN_ID="+regexp.MustCompile(`[0-9a-f]{24}`).FindString(p.types("gangway restore tokens")))
	p.types("gangway restore resume")
	if out := r.types("gangway restore tokens --data /var/lib/gangway --output json"); strings.Contains(out, "limited") {
		t.Errorf("the join token is still paused: %s", short(out))
	}
	p.types("mv /var/lib/gangway")
	p.types("mkdir -m 700")
	p.types("cp -a /backup")
	p.types("gangway serve")
	r.types(login)
	// From here on, the hub has a new address. Its device learns this address and connects to it.
	p.types("gangway serve")
	r.types("gangway-agent run")
	r.connected()
	p.types("gangway device ls")
	p.types("gangway serve")
	r.types("gangway-agent run")
	r.connected()
	if out := r.types("gangway-agent status"); !strings.Contains(out, "https://new.example") {
		t.Errorf("the device should use the new address:\n%s", short(out))
	}
	r.end("gangway-agent run")
	r.types("rm device_autojointoken.json")
	p.types("gangway login")
	p.types("gangway token create")
	p.types("gangway-agent onboard")
	// From here on, the hub runs a newer version.
	r.end("gangway serve")
	r.types("cd " + r.repository("."))
	p.types("install -m 755 build/gangway")
	r.types("cd ~/work")
	p.types("gangway serve")
	p.types("gangway version")
	if out := p.types("gangway ready"); out != "ready\n" {
		t.Errorf("gangway ready prints %s", short(out))
	}
	if out := p.types("gangway doctor"); !strings.Contains(out, "0 problem(s)") {
		t.Errorf("the doctor prints\n%s", short(out))
	}
	r.types("gangway serve --data /var/lib/gangway --listen :443 --url https://new.example --metrics-listen 127.0.0.1:12444")
	r.types("rm -r /backup && mv /backup.encrypted /backup")
	if out := p.types("curl -s"); !strings.Contains(out, "gangway_") {
		t.Errorf("the metrics are\n%s", short(out))
	}
	p.types("gangway events --data")
	p.types("gangway fsck")
	if out := p.types("gangway doctor"); !strings.Contains(out, `"code": "backup"`) {
		t.Errorf("the doctor does not find the backup:\n%s", short(out))
	}
	r.cloned(tpm)
	if out := p.types("gangway device cloned"); !strings.Contains(out, "clock") {
		t.Errorf("the clone should be shown:\n%s", short(out))
	}
	p.types("gangway device cloned")
	p.types("gangway device cloned")
	p.types("gangway device cloned")
	p.done()
}

// behindAProxy types the chapter about a proxy that terminates TLS. Then the device connects through
// HAProxy with the page's configuration.
func (r *room) behindAProxy(p *page) {
	t := r.t
	t.Helper()
	for _, begins := range []string{"openssl req -x509", "openssl req -x509", "openssl req -new", "gangway ca issue-server", "cp /var/lib/gangway/pki/root.crt", "cat /var/lib/gangway/pki", "install -D -m 644", "gangway serve", "cat outer.crt", "install -D -m 600"} {
		p.types(begins)
	}
	if _, err := exec.LookPath("haproxy"); err != nil {
		t.Logf("%v: scripts/install.sh installs it", err)
		p.next("haproxy -c")
		return
	}
	_, config, _ := strings.Cut(operationsPage(t), "\n```haproxy\n")
	config, _, _ = strings.Cut(config, "```")
	r.writes("/etc/haproxy/haproxy.cfg", config, 0o644)
	p.types("haproxy -c")
	r.types("haproxy -D -p /run/haproxy.pid -f /etc/haproxy/haproxy.cfg")
	r.types("sed 's|https://hub.example:12443|https://proxy.example|' device_autojointoken.json > proxied.json && chmod 600 proxied.json")
	r.types("gangway-agent run --token-file proxied.json")
	r.connected()
	if out := r.types("gangway-agent status"); !strings.Contains(out, "https://proxy.example") {
		t.Errorf("the device should use the proxy:\n%s", short(out))
	}
	r.end("gangway-agent run")
	if out := r.types("gangway doctor --data /var/lib/gangway"); !strings.Contains(out, "answers at https://proxy.example") {
		t.Errorf("the doctor should find the proxy:\n%s", short(out))
	}
	r.types("kill $(cat /run/haproxy.pid)")
	// From here on, the device uses the direct connection again.
	r.types("gangway-agent run --token-file device_autojointoken.json")
	r.connected()
	r.end("gangway-agent run")
}

func TestCommandLinePage(t *testing.T) {
	t.Parallel()
	r := enter(t)
	if r == nil {
		return
	}
	r.aHub()
	r.types("gangway logout")
	p := r.page("docs/cli.md")
	p.types("gangway login")
	if out := p.types("gangway whoami"); !strings.Contains(out, "ada") {
		t.Errorf("whoami prints %s", short(out))
	}
	r.aDevice()
	r.writes("/usr/local/lib/gangway/hook", "#!/bin/sh\n", 0o755)
	r.types("gangway-agent run --hook /usr/local/lib/gangway/hook --poll 1s")
	r.connected()
	p.types("gangway context rename")
	p.types("gangway context ls")
	p.types("gangway whoami --context oslo")
	p.types("GANGWAY_HUB=")
	p.types("gangway device ls")
	p.types("gangway device ls state:active")
	p.types("gangway device ls --output csv")
	if b, err := os.ReadFile(filepath.Join(r.dir, "devices.csv")); err != nil || !strings.Contains(string(b), "brave-otter-3fa2,") {
		t.Errorf("devices.csv is %s, %v", b, err)
	}
	p.elsewhere("gangway device ls --watch", "TestWatchOnATerminal")
	p.elsewhere("gangway top", "TestTopRestoresTheTerminal")
	p.types("gangway device show")
	if out := p.types("gangway open"); !strings.Contains(out, "https://hub.example:12443/ui/devices/") {
		t.Errorf("open prints %s", short(out))
	}
	p.types("gangway device set")
	p.types("gangway device set")
	p.types("gangway device set")
	p.types("gangway device set")
	if out := p.types("gangway device meta"); !strings.Contains(out, "oslo") || strings.Contains(out, "rack") {
		t.Errorf("meta prints %s", short(out))
	}
	p.types("gangway device logs")
	p.types("gangway device logs")
	p.types("gangway device logs")
	p.elsewhere("gangway device logs brave-otter-3fa2 --follow", "TestDeviceLogsFollow")
	p.types("gangway device state")
	r.writes("state.json", `{"#spec":"pantavisor-service-system@1","app/run.json":{"version":2}}`, 0o600)
	if out := p.types("gangway device post"); !strings.Contains(out, "+ app/run.json") {
		t.Errorf("post shows %s", short(out))
	}
	r.answers["Type yes: "] = "yes"
	p.types("gangway device post")
	if out := p.types("gangway device revisions"); !strings.Contains(out, "version 2") || strings.Count(out, "done") != 2 {
		t.Errorf("revisions prints %s", short(out))
	}
	p.types("gangway device rollback")
	r.types("mkdir -p /etc/bash_completion.d")
	p.types("gangway completion bash")
	p.types("gangway doctor")
	p.done()
}

func TestPvrPage(t *testing.T) {
	p := (&room{t: t}).page("docs/pvr.md")
	for range 3 {
		p.elsewhere("export ", "TestPVRSessionWithTheRealAgent")
	}
	p.done()
}

func TestProtocolPage(t *testing.T) {
	p := (&room{t: t}).page("docs/protocol.md")
	p.elsewhere("openssl cms -decrypt", "TestOpenSSLOpensTheSealedReply")
	p.done()
}

func TestImagePage(t *testing.T) {
	t.Parallel()
	r := enter(t)
	if r == nil {
		return
	}
	r.kernel()
	r.aHub()
	r.aDevice()
	r.types("rm device_autojointoken.json")
	p := r.page("docs/image.md")
	p.types("gangway token create")
	p.types("gangway image fetch")
	p.types("gangway image build x64-uefi-installer --token-file")
	p.types("dd if=installer.img of=/dev/sdX")
	p.elsewhere("gangway image build x64-uefi-installer --token-file device_autojointoken.json --merge", "TestImageOfACheckoutAnExportAndATrail")
	p.elsewhere("gangway image try", "TestImageTry")
	p.types("gangway image build x64-uefi-installer --claim")
	p.types("gangway image escrow-key")
	p.types("gangway image build x64-uefi-installer --token-file device_autojointoken.json --escrow-to")
	p.elsewhere("gangway device recovery-key", "TestEncryptedInstallation")
	p.types("gangway image keys")
	p.types("gangway image build x64-uefi-installer --token-file device_autojointoken.json --secure-boot-keys")
	p.types("gangway image inspect")
	p.types("gangway image build x64-uefi-installer --reset-only")
	p.elsewhere("gangway image fetch --update", "scripts/install.sh")
	p.elsewhere("pvr clone", "TestPVRClonesTheFirstRevision")
	r.types("mkdir pump")
	p.types("cd pump && mkdir -p gangway")
	r.types("cd ~/work/pump")
	p.types("gangway image system")
	r.types("cd ~/work")
	p.elsewhere("pvr add", "TestPVRSessionWithTheRealAgent")
	p.elsewhere("pvr post", "TestPVRSessionWithTheRealAgent")
	p.types("gangway image build x64-uefi-installer --token-file device_autojointoken.json --address")
	r.writes("network.txt", "version = 1\naddress = 192.0.2.10/24\ngateway = 192.0.2.1\ndns = 192.0.2.53\n", 0o600)
	p.types("gangway image build x64-uefi-installer --token-file device_autojointoken.json --network-file")
	p.elsewhere("gangway device network", "TestOwnerChangesTheNetwork")
	p.elsewhere("gangway device network", "TestOwnerChangesTheNetwork")
	p.types("gangway manifest key create")
	p.elsewhere("gangway image build x64-uefi-installer --token-file device_autojointoken.json --manifest-key", "TestImageWithManifest")
	p.elsewhere("gangway manifest show", "TestImageWithManifest")
	p.elsewhere("gangway image system --manifest-key", "TestSystemWithManifest")
	p.elsewhere("gangway manifest verify", "TestSystemWithManifest")
	p.elsewhere("gangway manifest key create tpm", "TestSystemWithManifestKeyInATPM")
	p.elsewhere("gangway image system --manifest-key tpm", "TestSystemWithManifestKeyInATPM")
	p.elsewhere("gangway manifest key public", "TestSystemWithManifestKeyOfASigner")
	p.elsewhere("gangway image system --manifest-key 'signer", "TestSystemWithManifestKeyOfASigner")
	p.elsewhere("gangway manifest export", "TestSystemWithManifest")
	p.done()
}
