package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"

	"github.com/spf13/cobra"
)

// The function `completes` returns the completions that the shell offers for the last element of
// `words`.
func completes(t *testing.T, words ...string) []string {
	t.Helper()
	code, out, _ := typed(t, append([]string{cobra.ShellCompRequestCmd}, words...)...)
	if code != 0 {
		t.Errorf("completing %q ends with %d", words, code)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return lines[:len(lines)-1] // without the last line, which is cobra's directive
}

func wordsOnly(lines []string) (list []string) {
	for _, line := range lines {
		word, _, _ := strings.Cut(line, "\t")
		list = append(list, word)
	}
	return list
}

// Each command that has a device, a token or a context as its argument completes that argument.
func TestEveryNameIsCompleted(t *testing.T) {
	t.Parallel()
	found := map[string]bool{}
	each := func(c *cobra.Command) {
		path := strings.TrimPrefix(c.CommandPath(), "gangway ")
		found[path] = true
		_, first, _ := strings.Cut(c.Use, " ")
		names := strings.HasPrefix(first, "ID|") || strings.HasPrefix(c.CommandPath(), "gangway context") && strings.Contains(first, "NAME")
		if names && completions[path] == nil {
			t.Errorf("%q completes no name", c.CommandPath())
		}
	}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		each(c)
		for _, child := range c.Commands() {
			walk(child)
		}
	}
	walk(command(&app{stdout: io.Discard, stderr: io.Discard}))
	for path := range completions {
		if !found[path] {
			t.Errorf("there is no command %q to complete", path)
		}
	}
}

func TestShellCompletesNamesFromTheHub(t *testing.T) {
	h, run, send := connected(t, func(d *fleet.Device) { d.Model = "box\x1b[2J\nrm -rf\t/" })
	d := only(t, h)
	send("POST", "/trails/", `{"#spec":"pantavisor-service-system@1"}`)
	out, _, err := run("", "token", "create", "--nick", "spring")
	var token api.JoinTokenCreated
	if err != nil || json.Unmarshal([]byte(out), &token) != nil {
		t.Fatal(err)
	}
	out, _, err = run("", "api-token", "create", "ci", "--scope", "devices.readonly", "--output", "json")
	if err != nil {
		t.Fatal(err)
	}
	var apiToken struct{ Secret string }
	if err := json.Unmarshal([]byte(out), &apiToken); err != nil || apiToken.Secret == "" {
		t.Fatal(err, out)
	}
	if _, _, err := run("", "device", "set", d.Nick, "site=in-confidence"); err != nil {
		t.Fatal(err)
	}
	s, err := loadSignIn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ line, want string }{
		{"device show |", d.Nick},
		{"device show |" + d.Nick[:3], d.Nick},
		{"device logs |" + strings.ToUpper(d.Nick[:3]), d.Nick},
		{"device meta |" + d.ID[:6], d.ID},
		{"device set |", d.Nick},
		{"device set " + d.Nick + " |", "site="},
		{"device set " + d.Nick + " x=1 |s", "site="},
		{"device rollback " + d.Nick + " |", "0"},
		{"device set " + d.Nick + " |rack", ""},
		{"device show |zzz", ""},
		{"device show " + d.Nick + " |", ""},
		{"token disable |sp", "spring"},
		{"token disable |" + token.ID[:5], token.ID},
		{"api-token revoke |", "ci"},
		{"context use |", "default"},
		{"--context |", "default"},
		{"device ls --hub |https", h.URL},
		{"device ls --output |y", "yaml"},
		{"device ls --columns |nick,i", "nick,id"},
		{"device lo|", "logs"},
		{"device show --context nowhere |", ""},
		{"device show --context ../x |", ""},
	} {
		line, last, _ := strings.Cut(c.line, "|")
		words := append(strings.Fields(line), last)
		if line == "device lo" {
			words = []string{"device", "lo"}
		}
		lines := completes(t, words...)
		if got := wordsOnly(lines); c.want == "" && len(got) > 0 || c.want != "" && !slices.Contains(got, c.want) {
			t.Errorf("%q completes to %q, want %q", c.line, got, c.want)
		}
		all := strings.Join(lines, "\n")
		if bad := obeyed(strings.ReplaceAll(all, "\t", "")); bad != "" || strings.Count(all, "\t") > len(lines) {
			t.Errorf("%q prints %q", c.line, all)
		}
		for _, secret := range []string{s.Token, token.Token, apiToken.Secret, "in-confidence"} {
			if strings.Contains(all, secret) {
				t.Errorf("%q prints a secret: %s", c.line, all)
			}
		}
	}
	inShells(t, []completed{{"gangway device lo", "logs"}, {"gangway device ls --output y", "yaml"}, {"gangway device show " + d.Nick[:3], d.Nick}})
	if files, err := filepath.Glob(filepath.Join(os.Getenv("XDG_CONFIG_HOME"), "gangway", "*")); err != nil || len(files) != 1 {
		t.Errorf("completion left files: %q", files)
	}
}

// completed is the beginning of a command, and the only word that completes it.
type completed struct{ typed, word string }

// inShells types beginnings of commands in zsh and fish, presses the Tab key, and checks that the
// shell completes them to the expected word. It leaves out shells that are not installed.
func inShells(t *testing.T, list []completed) {
	t.Helper()
	// fish lists the completions of a command line. zsh completes only at a terminal, so the test
	// uses zsh's module zpty, which makes a terminal.
	fish := "gangway completion fish | source\n"
	zsh := `zmodload zsh/zpty; zpty z "zsh -f -i"
zpty -w z 'PS1=; PROMPT_EOL_MARK=; autoload -Uz compinit; compinit -u -D; source <(gangway completion zsh); print REA""DY'
zpty -r -m z out '*READY*'
`
	for _, c := range list {
		fish += fmt.Sprintf("complete -C %q\n", c.typed)
		zsh += fmt.Sprintf("zpty -w -n z $'\\C-u%s\\t'; zpty -r -m z out '*%s*'; print '%s'\n", c.typed, c.word, c.word)
	}
	for shell, script := range map[string][]string{"fish": {"--no-config", "-c", fish}, "zsh": {"-f", "-c", zsh + "zpty -d z"}} {
		program, err := exec.LookPath(shell)
		if err != nil {
			t.Logf("no %s here", shell)
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		out, err := exec.CommandContext(ctx, program, script...).CombinedOutput()
		cancel()
		if err != nil {
			t.Errorf("%s: %v\n%s", shell, err, out)
		}
		for _, c := range list {
			if !slices.ContainsFunc(strings.Split(string(out), "\n"), func(line string) bool {
				word, _, _ := strings.Cut(line, "\t")
				return word == c.word
			}) {
				t.Errorf("%s does not complete %q to %q:\n%s", shell, c.typed, c.word, out)
			}
		}
	}
}

// If the hub does not answer, or answers with an error, completion ends soon and prints nothing.
func TestCompletionIsQuickAndSilent(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ca := hubtest.New(t, nil, nil).CA.RootPEM()
	asked := 0
	signedInTo(t, func(w http.ResponseWriter, _ *http.Request) {
		asked++
		http.Error(w, "broken", http.StatusInternalServerError)
	})
	for _, hub := range []string{"", "https://" + silent.Addr().String()} {
		if hub != "" {
			if err := (&signIn{Hub: hub, HubCA: string(ca), Token: "t", context: defaultContext}).save(); err != nil {
				t.Fatal(err)
			}
		}
		begun := time.Now()
		_, out, stderr := typed(t, cobra.ShellCompRequestCmd, "device", "show", "")
		if took := time.Since(begun); took > completeTime+8*time.Second {
			t.Errorf("completion took %v", took)
		}
		if strings.Contains(out+stderr, "broken") || strings.Contains(out+stderr, "gangway:") || !strings.HasPrefix(out, ":") {
			t.Errorf("completion prints %q and %q", out, stderr)
		}
	}
	if asked == 0 {
		t.Error("the hub was not asked")
	}
}

// A nick that a shell would interpret, for example as a command, is not completed.
func TestCompletionGivesTheShellOnlyPlainWords(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]bool{"oslo-gate-1": true, "a b": false, "$(reboot)": false, "a;b": false, "`x`": false, "": false, "x\ty": false, "ü": false} {
		if typable(word) != want {
			t.Errorf("typable(%q) is not %t", word, want)
		}
	}
}

// Each shell accepts its completion script.
func TestCompletionScriptsAreValid(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish"} {
		program, err := exec.LookPath(shell)
		if err != nil {
			t.Logf("no %s here", shell)
			continue
		}
		code, script, stderr := typed(t, "completion", shell)
		if code != 0 || script == "" {
			t.Fatal(shell, stderr)
		}
		c := exec.Command(program, "-n")
		c.Stdin = strings.NewReader(script)
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%s: %v %s", shell, err, out)
		}
	}
}
