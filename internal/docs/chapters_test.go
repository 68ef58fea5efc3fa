package docs_test

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gangway/internal/swtpm"
)

// The test runs all commands of each chapter of docs/operations.md about the life of a hub, in
// order. TestComposeServicesRun and TestKubernetesPodRuns in internal/deploy do the same for the
// chapters about containers.
func TestChaptersOfOperationsPage(t *testing.T) {
	t.Parallel()
	if os.Getenv("GANGWAY_E2E_FULL") == "" && os.Getenv(inRoom) == "" {
		t.Skip("it takes a minute: make e2e-full runs it")
	}
	r := enter(t)
	if r == nil {
		return
	}
	p := r.chapter("Installing with a Debian package")
	tpm := r.hasTPM()
	r.installed()
	r.types("useradd --system gangway && install -d -m 700 -o gangway /var/lib/gangway")
	r.types("runuser -u gangway -- gangway serve --data /var/lib/gangway --listen :12443 --url https://hub.example:12443")
	r.named(p.types("runuser -u gangway -- gangway account create"))
	if out := p.types("runuser -u gangway -- gangway doctor"); !strings.Contains(out, "0 problem(s)") {
		t.Errorf("the doctor prints\n%s", short(out))
	}
	p.done()
	r.answers["Password: "], r.answers["Again: "], r.answers["New password: "] = password, password, password
	r.types("gangway account delete ada --data /var/lib/gangway")
	r.account("gangway account create --data /var/lib/gangway --nick ada --reuse-nick")
	r.trusts(tpm)
	r.types("gangway login https://hub.example:12443 --hub-name $HUB_NAME --nick ada")
	r.aDevice()

	p = r.chapter("Taking a hub down for good")
	if out := p.types("gangway device ls"); !strings.Contains(out, "brave-otter-3fa2") {
		t.Errorf("the device should be listed:\n%s", short(out))
	}
	p.types("gangway device delete")
	p.types("gangway events --data")
	if out := p.types("gangway account ls"); !strings.Contains(out, "ada") {
		t.Errorf("the account should be listed:\n%s", short(out))
	}
	p.types("gangway account delete")
	r.end("gangway serve")
	p.types("find /var/lib/gangway/pki")
	p.types("rm -r /var/lib/gangway")
	r.types("tpm2_createprimary -Q -C o -c primary.ctx && tpm2_evictcontrol -Q -C o -c primary.ctx 0x81010060")
	p.types("tpm2_evictcontrol")
	if out := r.types("tpm2_getcap handles-persistent"); strings.Contains(out, "0x81010060") {
		t.Errorf("the key is still in the TPM: %s", out)
	}
	p.done()

	r.postgres()
	r.env = append(r.env, "PGHOST=/run/postgresql", "PGUSER=gangway", "AWS_ACCESS_KEY_ID=key", "AWS_SECRET_ACCESS_KEY=secret")
	r.movesAndLosesItsDisk(tpm)

	r.s3()
	const shared = ` --database "postgres://hub@/gangway?host=/run/postgresql" --database-password-file /etc/gangway/database-password`
	replica := "gangway serve --data /var/lib/gangway --listen :12443 --url https://hub.example:12443" + shared
	r.types(replica + " --s3-endpoint https://s3.example --s3-bucket fleet")
	r.account("gangway account create --data /var/lib/gangway --nick ada" + shared)
	r.types("mkdir -m 700 /var/lib/gangway-b && cp -a /var/lib/gangway/pki /var/lib/gangway-b/")
	r.types("cp /usr/local/bin/gangway gangway.new")
	p = r.chapter("Upgrading with a second replica")
	p.types("install -m 755 gangway.new")
	first := r.keeps("gangway serve")
	p.types("gangway serve --data /var/lib/gangway-b")
	for _, ready := range []string{p.next("gangway ready"), "gangway ready --data /var/lib/gangway"} {
		if out := r.types(ready); !strings.Contains(out, "ready") {
			t.Errorf("%s prints %s", ready, out)
		}
	}
	p.done()
	r.end("gangway serve")
	first()

	r.types(replica + " --s3-endpoint https://s3.example --s3-bucket fleet")
	r.types("gangway login https://hub.example:12443 --hub-name $HUB_NAME --nick ada")
	r.types("rm device_autojointoken.json && gangway token create -o device_autojointoken.json")
	r.types("rm ci.token && gangway api-token create ci --scope all -o ci.token")
	r.env = append(r.env, "TOKEN_ID="+r.onlyID("gangway token ls --output json"))
	p = r.chapter("Replacing a leaked key")
	p.types("gangway token disable")
	p.types("gangway api-token revoke")
	p.types("gangway account sessions --end-others")
	p.types("gangway account passwd --end-api-tokens")
	if out := p.types("gangway events --since"); !strings.Contains(out, "token") {
		t.Errorf("the events of the tokens should be listed:\n%s", short(out))
	}
	p.types("openssl rand")
	p.types("psql -d gangway -c")
	r.end("gangway serve")
	p.types("gangway serve")
	if out := p.types("psql -d gangway -c"); !strings.Contains(out, " t") {
		t.Errorf("no connection was ended:\n%s", short(out))
	}
	r.types("gangway device ls") // the hub connects again
	p.done()
}

// movesAndLosesItsDisk types the chapters about a hub whose database moves to PostgreSQL while it
// runs, and whose machine is then lost. In the end, there is an empty database and no hub.
func (r *room) movesAndLosesItsDisk(tpm *swtpm.TPM) {
	t := r.t
	t.Helper()
	recipient := func(out string) {
		t.Helper()
		m := regexp.MustCompile(`age1[0-9a-z]+`).FindString(out)
		if m == "" {
			t.Fatalf("no recipient was printed: %s", short(out))
		}
		r.env = append(r.env, "RECIPIENT="+m)
	}
	const login = "gangway login https://hub.example:12443 --hub-name $HUB_NAME --nick ada"
	r.types("rm -r /var/lib/gangway-agent device_autojointoken.json && mkdir /backup")
	r.types("gangway serve --data /var/lib/gangway --listen :12443 --url https://hub.example:12443")
	r.account("gangway account create --data /var/lib/gangway --nick ada")
	r.trusts(tpm)
	r.types(login)
	r.aDevice()
	recipient(r.types("gangway backup key first.key"))

	p := r.chapter("To another engine")
	p.types("gangway backup --data")
	p.types("gangway db migrate")
	if out := p.types("gangway doctor"); !strings.Contains(out, "PostgreSQL") || !strings.Contains(out, "0 problem(s)") {
		t.Errorf("the doctor prints\n%s", short(out))
	}
	p.types("gangway backup --data")
	p.types("rm /var/lib/gangway/gangway.db.moved")
	p.done()

	for _, name := range []string{"ci", "upload"} {
		r.types("gangway api-token create " + name + " --scope all -o " + name + ".token")
	}
	r.types("gangway token create --max-uses 5 --nick limited -o limited.json")
	var tokens []struct{ ID, Nick string }
	if err := json.Unmarshal([]byte(r.types("gangway token ls --output json")), &tokens); err != nil {
		t.Fatal(err)
	}
	limited := tokens[slices.IndexFunc(tokens, func(k struct{ ID, Nick string }) bool { return k.Nick == "limited" })].ID
	r.env = append(r.env, "TOKEN_ID="+limited)
	const curl = `curl -sS --fail --cacert /var/lib/gangway/pki/root.crt `
	const as = `-H "Authorization: Bearer $(cat upload.token)" -H "Content-Type: application/json" https://hub.example:12443/objects`
	r.types("printf pump > pump.bin")
	r.types(curl + `-d "{\"objectname\":\"pump\",\"size\":\"4\",\"sha256sum\":\"$(sha256sum pump.bin | cut -d' ' -f1)\"}" ` + as +
		` | grep -o '"signed-puturl": *"[^"]*"' | cut -d'"' -f4 | xargs ` + curl + `-T pump.bin`)

	p = r.chapter("After a lost disk")
	recipient(p.types("gangway backup key"))
	p.types("gangway backup --data")
	p.types("gangway backup check")
	r.types("gangway api-token revoke ci")
	p.types("gangway events --data")
	r.end("gangway serve")
	r.types("rm -r /var/lib/gangway")
	r.types(`psql -d postgres -c "DROP DATABASE gangway"`)
	p.types("psql -d postgres")
	p.types("gangway backup verify")
	if out := p.types("gangway restore"); !strings.Contains(out, "Repeated 1 deletions") || !strings.Contains(out, "all 1 objects") {
		t.Errorf("the restore prints\n%s", short(out))
	}
	p.types("gangway fsck")
	p.types("gangway serve")
	p.types("gangway login")
	if out := p.types("gangway device ls"); !strings.Contains(out, "brave-otter-3fa2") {
		t.Errorf("the device should be listed:\n%s", short(out))
	}
	r.types("gangway-agent run")
	r.connected()
	r.end("gangway-agent run")
	if out := r.types(curl + strings.Replace(as, "/objects", "/objects/$(sha256sum pump.bin | cut -d' ' -f1)", 1) +
		` | grep -o '"signed-geturl": *"[^"]*"' | cut -d'"' -f4 | xargs ` + curl); !strings.Contains(out, "pump") {
		t.Errorf("the object is %s", short(out))
	}
	if _, err := r.run(curl + strings.Replace(as, "upload.token", "ci.token", 1)); err == nil {
		t.Error("the API token that was revoked after the backup works")
	}
	p.types("gangway restore lost")
	if out := p.types("gangway restore tokens"); !strings.Contains(out, limited) {
		t.Errorf("the paused join token should be listed:\n%s", short(out))
	}
	p.types("gangway restore resume")
	p.types("gangway backup --data")
	p.done()
	r.end("gangway serve")
	r.types("rm -r /var/lib/gangway")
	r.types(`psql -d postgres -c "DROP DATABASE gangway" -c "CREATE DATABASE gangway OWNER hub ENCODING 'UTF8' TEMPLATE template0"`)
}
