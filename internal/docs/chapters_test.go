package docs_test

import (
	"os"
	"strings"
	"testing"
)

// Each chapter about the life of a hub is typed from its start to its end. TestComposeServicesRun and
// TestKubernetesPodRuns in internal/deploy do the same for the chapters about containers.
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
	p.elsewhere("apt-get install", "TestPackages")
	p.elsewhere("systemctl restart", "TestPackages")

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
	p.types("gangway account delete")
	r.end("gangway serve")
	p.types("find /var/lib/gangway/pki")
	p.types("rm -r /var/lib/gangway")
	p.done()

	r.postgres()
	r.env = append(r.env, "PGHOST=/run/postgresql", "PGUSER=gangway", "AWS_ACCESS_KEY_ID=key", "AWS_SECRET_ACCESS_KEY=secret")
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
	r.types("gangway token create -o device_autojointoken.json")
	r.types("gangway api-token create ci --scope all -o ci.token")
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
	p.done()
}
