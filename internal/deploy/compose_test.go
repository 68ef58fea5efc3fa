package deploy_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

const hubURL = "https://hub.example:12443"

// composeProject runs the commands of the docs that come before the first docker command. Then it
// loads the compose file with the library of Docker Compose. The library checks the file against
// the schema of the Compose specification, which allows no unknown field.
func composeProject(t *testing.T) (*types.Project, *script) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("the chapter is for root, who makes a folder of another user")
	}
	script := chapter(t, "Installing with containers")
	script.until("docker")
	o, err := cli.NewProjectOptions([]string{filepath.Join(script.dir, "compose.yaml")}, cli.WithWorkingDirectory(script.dir), cli.WithEnvFiles(), cli.WithDotEnv)
	if err != nil {
		t.Fatal(err)
	}
	p, err := o.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p, script
}

// simulated are the fields of a service that containerOf applies, or that the test checks.
// unsimulated are fields whose effect needs a container engine.
var (
	simulated   = []string{"cap_drop", "command", "depends_on", "entrypoint", "environment", "healthcheck", "image", "network_mode", "networks", "ports", "read_only", "secrets", "security_opt", "stop_grace_period", "stop_signal", "tmpfs", "user", "volumes"}
	unsimulated = []string{"mem_limit", "pids_limit", "restart", "shm_size"}
)

// Every service runs without privileges and with limits. No password is in the file or in the
// environment.
func TestComposeServicesAreConfined(t *testing.T) {
	t.Parallel()
	p, script := composeProject(t)
	password, err := os.ReadFile(filepath.Join(script.dir, "secrets/hub-password"))
	if err != nil || len(password) < 64 {
		t.Fatalf("the password is %q, %v", password, err)
	}
	if got := slices.Sorted(maps.Keys(p.Services)); !slices.Equal(got, []string{"database", "hub"}) {
		t.Fatalf("the services are %q", got)
	}
	for name, s := range p.Services {
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		fields := map[string]any{}
		if err := json.Unmarshal(text, &fields); err != nil {
			t.Fatal(err)
		}
		for field, value := range fields {
			if value != nil && !slices.Contains(simulated, field) && !slices.Contains(unsimulated, field) {
				t.Errorf("%s: the test does not know the field %s: %v", name, field, value)
			}
		}
		user(t, s.User)
		switch {
		case !s.ReadOnly:
			t.Errorf("%s: its root file system is writable", name)
		case !slices.Equal(s.CapDrop, []string{"ALL"}):
			t.Errorf("%s: cap_drop is %q", name, s.CapDrop)
		case !slices.Equal(s.SecurityOpt, []string{"no-new-privileges:true"}):
			t.Errorf("%s: security_opt is %q", name, s.SecurityOpt)
		case s.HealthCheck == nil || s.HealthCheck.Disable || s.HealthCheck.Interval == nil || s.HealthCheck.Timeout == nil:
			t.Errorf("%s: no health check", name)
		case s.MemLimit == 0 || s.PidsLimit == 0 || s.Restart != "unless-stopped" || s.StopGracePeriod == nil:
			t.Errorf("%s: a limit is missing", name)
		}
		if strings.Contains(string(text), strings.TrimSpace(string(password))) {
			t.Errorf("%s: the service contains a password: %s", name, text)
		}
	}
	database, hub := p.Services["database"], p.Services["hub"]
	if database.NetworkMode != "none" || len(database.Ports) > 0 {
		t.Errorf("the database has a network: %q, %v", database.NetworkMode, database.Ports)
	}
	if hub.DependsOn["database"].Condition != types.ServiceConditionHealthy {
		t.Errorf("the hub does not wait for the database: %+v", hub.DependsOn)
	}
}

// If a variable is missing from .env, Docker Compose refuses the project, with an error that names
// the variable and an example.
func TestComposeRefusesMissingVariables(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"GANGWAY_IMAGE", "GANGWAY_URL"} {
		o, err := cli.NewProjectOptions([]string{filepath.Join(repository, "contrib/compose/compose.yaml")},
			cli.WithEnv(slices.DeleteFunc([]string{"GANGWAY_IMAGE=gangway:1", "GANGWAY_URL=" + hubURL}, func(v string) bool { return strings.HasPrefix(v, name) })))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.LoadProject(t.Context()); err == nil || !strings.Contains(err.Error(), "set "+name+" in .env, such as") {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

// docs/operations.md says how an operator adds options and ports to the compose file. With these
// additions, the hub's container gets the intended environment variables and ports.
func TestComposeTakesTheOptionsOfThePage(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile(filepath.Join(repository, "docs/operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	// find returns the part of docs/operations.md between two texts.
	find := func(before, after string) string {
		t.Helper()
		_, text, found := strings.Cut(string(doc), before)
		text, _, ends := strings.Cut(text, after)
		if !found || !ends {
			t.Fatalf("docs/operations.md has nothing between %q and %q", before, after)
		}
		return text
	}
	options := find("\n```yaml\n", "```\n") + "      " + find("With [containers](#installing-with-containers), write `", "`") + "\n"
	port := find("in `compose.yaml`, add `", "`")
	file, err := os.ReadFile(filepath.Join(repository, "contrib/compose/compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(file), "    environment:\n", "    environment:\n"+options, 1)
	changed = strings.Replace(changed, `ports: ["12443:12443"]`, `ports: ["12443:12443", `+port+`]`, 1)
	path := filepath.Join(t.TempDir(), "compose.yaml")
	if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := cli.NewProjectOptions([]string{path}, cli.WithEnv([]string{"GANGWAY_IMAGE=gangway:1", "GANGWAY_URL=" + hubURL}))
	if err != nil {
		t.Fatal(err)
	}
	p, err := o.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hub := p.Services["hub"]
	for name, want := range map[string]string{
		"GANGWAY_RATE": "onboard=100/400\nsign-in=1/20", "GANGWAY_METRICS_LISTEN": ":12444", "GANGWAY_ALSO_URL": "https://old.example:12443,https://proxy.example",
	} {
		if got := hub.Environment[name]; got == nil || *got != want {
			t.Errorf("%s is not %q: %v", name, want, hub.Environment)
		}
	}
	if n := len(hub.Ports); n != 2 || hub.Ports[1].HostIP != "127.0.0.1" || hub.Ports[1].Target != 12444 {
		t.Errorf("the ports are %+v", hub.Ports)
	}
}

// stack has the volumes of a project, and the files that its services need.
type stack struct {
	t       *testing.T
	project *types.Project
	images  map[string]*image
	files   map[string]map[string]string // files of the images, by service
	volumes map[string]string            // folders of the volumes, by name
}

// containerOf returns the container that a service describes.
func (s *stack) containerOf(name string) spec {
	s.t.Helper()
	service, img := s.project.Services[name], s.images[name]
	c := spec{
		Name: name, Root: img.root, ReadOnly: service.ReadOnly, Env: img.config.Env, Dir: img.config.WorkingDir,
		Alone: service.NetworkMode == "none", Files: map[string]string{"/etc/hosts": "127.0.0.1 localhost\n"},
	}
	maps.Copy(c.Files, s.files[name])
	c.UID, c.GID = user(s.t, service.User)
	c.Args = slices.Concat(img.config.Entrypoint, service.Command)
	for key, value := range service.Environment {
		c.Env = append(c.Env, key+"="+*value)
	}
	for _, v := range service.Volumes {
		m := mount{Source: v.Source, Target: v.Target, ReadOnly: v.ReadOnly}
		if v.Type == types.VolumeTypeVolume {
			m.Source = s.volume(v.Source, img.volumes[v.Target])
		}
		c.Mounts = append(c.Mounts, m)
	}
	for _, v := range service.Secrets {
		target := v.Target
		if !strings.HasPrefix(target, "/") {
			target = "/run/secrets/" + v.Source
		}
		c.Mounts = append(c.Mounts, mount{Source: s.project.Secrets[v.Source].File, Target: target, ReadOnly: true})
	}
	for _, v := range service.Tmpfs {
		target, options, _ := strings.Cut(v, ":")
		c.Mounts = append(c.Mounts, mount{Target: target, Options: options})
	}
	return c
}

// volume returns the folder of a named volume. If the volume is new, it gets the owner and the mode
// of the image's folder at the mount point (`like`), as an engine does it.
func (s *stack) volume(name string, like folder) string {
	s.t.Helper()
	if s.volumes[name] == "" {
		dir := filepath.Join(s.t.TempDir(), name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			s.t.Fatal(err)
		}
		if err := os.Chown(dir, like.uid, like.gid); err != nil {
			s.t.Fatal(err)
		}
		if err := os.Chmod(dir, like.mode); err != nil {
			s.t.Fatal(err)
		}
		s.volumes[name] = dir
	}
	return s.volumes[name]
}

// start starts a service, and waits until its health check succeeds.
func (s *stack) start(name string) *container {
	s.t.Helper()
	c := start(s.t, s.containerOf(name))
	c.await(s.t, "healthy", func() error { return s.healthy(name, c) })
	return c
}

// healthy runs the health check of a service.
func (s *stack) healthy(name string, c *container) error {
	s.t.Helper()
	test := s.project.Services[name].HealthCheck.Test
	args := test[1:]
	switch {
	case test[0] == "CMD-SHELL":
		args = []string{"/bin/sh", "-c", test[1]}
	case test[0] != "CMD":
		s.t.Fatalf("%s: the health check begins with %q", name, test[0])
	}
	out, err := c.exec(args...)
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return err
}

// The services of the compose file run as the file says: in their images, with their users,
// volumes, secrets and health checks, without capabilities, and with a read-only root. The hub
// serves with PostgreSQL, stops in time, and has its accounts after a restart. Its backup is
// restored into empty volumes. A hub with an offline root gets its CAs. The test does the work
// of Docker Compose for all commands of the chapter "Installing with containers".
func TestComposeServicesRun(t *testing.T) {
	if testing.Short() {
		t.Skip("it runs a hub and PostgreSQL in containers")
	}
	if !ownNetwork(t) {
		return
	}
	p, script := composeProject(t)
	postgres, files := postgresImage(t)
	s := &stack{t: t, project: p, images: map[string]*image{"hub": hubImage(t), "database": postgres}, files: map[string]map[string]string{"database": files}, volumes: map[string]string{}}
	e := newEngine(s, script)
	hasAda := func(when string) {
		t.Helper()
		if out, err := e.running["hub"].exec("/usr/bin/gangway", "account", "ls", "--data", "/var/lib/gangway"); err != nil || !strings.Contains(out, "ada") {
			t.Errorf("%s, the accounts are\n%s%v", when, out, err)
		}
	}
	e.types("docker compose up --detach --wait")
	e.running["database"].checkConfined(t)
	e.running["hub"].checkConfined(t)
	script.vars["HUB_NAME"] = regexp.MustCompile(`--hub-name ([0-9a-f]{64})`).FindStringSubmatch(e.types("docker compose exec hub gangway account create"))[1]
	if out := e.types("docker compose exec hub gangway account ls"); !strings.Contains(out, "ada") {
		t.Errorf("the accounts are\n%s", out)
	}
	if out := e.types("docker compose exec hub gangway ready"); out != "ready\n" {
		t.Errorf("gangway ready prints %s", out)
	}
	if out := e.types("docker compose logs hub"); !strings.Contains(out, hubURL) {
		t.Errorf("the log is\n%s", out)
	}
	before := e.running["hub"]
	e.types("docker compose restart hub")
	if e.running["hub"] == before {
		t.Error("the hub was not restarted")
	}
	hasAda("after a restart")
	e.types("docker compose stop hub")
	e.types("docker compose up --detach --wait")
	hasAda("after a stop")

	if _, err := os.Stat(filepath.Join(e.types("docker volume inspect"), "pki/root.key")); err != nil {
		t.Errorf("the files of the hub are not in the folder that Docker prints: %v", err)
	}

	operator := func(args ...string) string {
		t.Helper()
		c := exec.Command(program(t, "gangway"), args...)
		c.Stdin = strings.NewReader("yes\n")
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("gangway %q: %v: %s", args, err, out)
		}
		return string(out)
	}
	identity := filepath.Join(t.TempDir(), "backup.key")
	script.vars["RECIPIENT"] = regexp.MustCompile(`age1[0-9a-z]+`).FindString(operator("backup", "key", identity))
	e.types("docker compose exec hub gangway backup")
	e.types("docker compose exec -T hub gangway events")
	for _, name := range []string{"gangway.db", "pki/root.key"} {
		_, err := os.Stat(filepath.Join(s.volumes["hub"], name))
		if inFile := err == nil; inFile != (name == "pki/root.key") {
			t.Errorf("%s is in the hub's volume: %v", name, inFile)
		}
	}
	if out, err := e.running["database"].exec("/usr/bin/psql", "--no-psqlrc", "-h", "/run/postgresql", "-U", "hub", "gangway", "-w"); err == nil || !strings.Contains(out, "no password supplied") {
		t.Errorf("the database lets a program in without a password: %v: %s", err, out)
	}
	hubCA := filepath.Join(s.volumes["hub"], "pki/root.crt")
	ready, err := exec.Command("curl", "-sS", "--cacert", hubCA, "--resolve", "hub.example:12443:127.0.0.1", hubURL+"/readyz").CombinedOutput()
	if err != nil || !strings.Contains(string(ready), `"ready"`) {
		t.Errorf("GET /readyz: %v: %s", err, ready)
	}

	// Without its database, the hub is not healthy. It is healthy again when the database is back.
	e.ends("database")
	if err := s.healthy("hub", e.running["hub"]); err == nil {
		t.Error("the hub is healthy without its database")
	}
	e.running["database"] = s.start("database")
	e.running["hub"].await(t, "healthy again", func() error { return s.healthy("hub", e.running["hub"]) })

	// The machine is lost, with its volumes.
	e.ends("hub")
	e.ends("database")
	e = e.another()
	backups, err := filepath.Glob(filepath.Join(script.dir, "backup/*.gangway-backup"))
	if err != nil || len(backups) != 1 {
		t.Fatalf("the backups are %q, %v", backups, err)
	}
	script.vars["BACKUP"] = filepath.Base(backups[0])
	script.run("install -m 600 " + identity + " backup/backup.key")
	script.run(script.next("chown -R 65532:65532 backup"))
	e.types("docker compose up --detach --wait database")
	e.types("docker compose run --rm hub restore")
	script.run(script.next("rm backup/backup.key"))
	e.types("docker compose up --detach --wait")
	hasAda("after the restore")
	volumes := slices.Collect(maps.Values(e.volumes))
	e.types("docker compose down --volumes")
	for _, dir := range volumes {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("the volume %s is still there", dir)
		}
	}

	// A new hub, whose root is offline.
	root := filepath.Join(t.TempDir(), "root")
	script.vars["HUB_NAME"] = regexp.MustCompile(`\b[0-9a-f]{64}\b`).FindString(operator("ca", "init", "--offline-root", root, "--name", "Example"))
	e.types("docker compose up --detach --wait database")
	e.types("docker compose run --rm hub ca request")
	operator("ca", "issue", filepath.Join(script.dir, "backup/request.pem"), "--root", root, "-o", filepath.Join(script.dir, "backup/answer.pem"))
	script.run("chown 65532 backup/answer.pem")
	e.types("docker compose run --rm hub ca install")
	e.types("docker compose up --detach --wait")
	if _, err := os.Stat(filepath.Join(e.volumes["hub"], "pki/root.key")); err == nil {
		t.Error("the hub has the key of the offline root")
	}
	e.asksForPassword()
	script.done()
}

// asksForPassword types the command that opens a prompt of PostgreSQL, and enters the password.
func (e *engine) asksForPassword() {
	e.t.Helper()
	password, err := os.ReadFile(filepath.Join(e.script.dir, "secrets/postgres-password"))
	if err != nil {
		e.t.Fatal(err)
	}
	const inDatabase = "docker compose exec database "
	args := strings.Fields(strings.TrimPrefix(e.script.next(inDatabase), inDatabase))
	for want, entered := range map[string]string{"superuser=on": string(password), "password authentication failed": "a guess\n"} {
		c := e.running["database"].command(args...)
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // without a terminal, psql reads the password from its input
		c.Stdin = strings.NewReader(entered + "SELECT 'superuser=' || current_setting('is_superuser');\n")
		out, err := c.CombinedOutput()
		if !strings.Contains(string(out), want) {
			e.t.Errorf("psql prints %q, %v; %q was expected", out, err, want)
		}
	}
}
