package deploy_test

import (
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// engine takes the place of Docker and Docker Compose for the commands of the page.
type engine struct {
	*stack
	script  *script
	running map[string]*container // the services' containers, by service
}

// The method `types` does what the script's next command, which begins with `begins`, tells Docker
// or Docker Compose to do, and returns what the container's program has printed. It fails at an option, a
// service or a variable that it does not know.
func (e *engine) types(begins string) string {
	e.t.Helper()
	line := e.script.next(begins)
	e.t.Logf("$ %s", line)
	if name, inspects := strings.CutPrefix(line, "docker volume inspect --format '{{.Mountpoint}}' "); inspects {
		for key, v := range e.project.Volumes {
			if v.Name == name && e.volumes[key] != "" {
				return e.volumes[key]
			}
		}
		e.t.Fatalf("there is no volume %q", name)
	}
	line, redirected, redirects := strings.Cut(line, " > ")
	words := strings.Fields(e.script.expand(line))
	if len(words) < 3 || words[0] != "docker" || words[1] != "compose" {
		e.t.Fatalf("%q is no command for Docker Compose", line)
	}
	command, words := words[2], words[3:]
	var flags []string
	for len(words) > 0 && strings.HasPrefix(words[0], "-") {
		flags, words = append(flags, words[0]), words[1:]
	}
	known := map[string][]string{"up": {"--detach", "--wait"}, "exec": {"-T"}, "run": {"--rm"}, "down": {"--volumes"}, "restart": {}, "stop": {}, "logs": {}}
	for _, flag := range flags {
		if !slices.Contains(known[command], flag) {
			e.t.Fatalf("the test does not know %s of docker compose %s", flag, command)
		}
	}
	service := ""
	if len(words) > 0 {
		service, words = words[0], words[1:]
		if _, exists := e.project.Services[service]; !exists {
			e.t.Fatalf("%s: the project has no service %q", line, service)
		}
	}
	if len(words) > 0 && command != "exec" && command != "run" {
		e.t.Fatalf("%s: the test does not know %q", line, words)
	}
	out := ""
	switch command {
	case "up":
		for _, name := range []string{"database", "hub"} { // the hub depends on the database
			if e.running[name] == nil && (service == "" || service == name) {
				e.running[name] = e.start(name)
			}
		}
	case "exec":
		c := e.running[service]
		if c == nil {
			e.t.Fatalf("%s: the service does not run", line)
		}
		var err error
		if redirects {
			out, err = c.printed(words...)
		} else {
			out, err = c.exec(words...)
		}
		if err != nil {
			e.t.Fatalf("%s: %v: %s", line, err, out)
		}
	case "run":
		s := e.containerOf(service)
		s.Args = slices.Concat(e.images[service].config.Entrypoint, words)
		once := start(e.t, s)
		code := once.wait(e.t, 2*time.Minute)
		if out = once.out.tail(); code != 0 {
			e.t.Fatalf("%s ended with %d: %s", line, code, out)
		}
	case "logs":
		out = e.running[service].out.tail()
	case "stop":
		e.ends(service)
	case "restart":
		e.ends(service)
		e.running[service] = e.start(service)
	case "down":
		for _, name := range []string{"hub", "database"} {
			if e.running[name] != nil {
				e.ends(name)
			}
		}
		for _, dir := range e.volumes {
			if slices.Contains(flags, "--volumes") {
				if err := os.RemoveAll(dir); err != nil {
					e.t.Fatal(err)
				}
			}
		}
		if slices.Contains(flags, "--volumes") {
			e.volumes = map[string]string{}
		}
	default:
		e.t.Fatalf("the test does not know docker compose %s", command)
	}
	if redirects {
		e.script.save(redirected, out)
	}
	return out
}

// ends stops a service with the signal and the grace period that the compose file names.
func (e *engine) ends(name string) {
	e.t.Helper()
	service, c := e.project.Services[name], e.running[name]
	signal := syscall.SIGTERM
	if service.StopSignal == "SIGINT" {
		signal = syscall.SIGINT
	}
	if code := c.stop(e.t, signal, time.Duration(*service.StopGracePeriod)); code != 0 {
		e.t.Errorf("%s ended with %d: %s", name, code, c.out.tail())
	}
	delete(e.running, name)
}

// newEngine returns an engine for a project. No service of the project runs yet.
func newEngine(s *stack, script *script) *engine {
	return &engine{stack: s, script: script, running: map[string]*container{}}
}

// another returns an engine for the same project on another machine, with new volumes.
func (e *engine) another() *engine {
	s := *e.stack
	s.volumes = map[string]string{}
	return newEngine(&s, e.script)
}
