package api_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"gangway/internal/fleet"
)

// recorder keeps the messages of a test that fails on purpose.
type recorder struct {
	testing.TB
	message string
}

func (r *recorder) Helper() {}
func (r *recorder) Fatal(args ...any) {
	r.message = fmt.Sprintln(args...)
	runtime.Goexit()
}
func (r *recorder) Fatalf(format string, args ...any) {
	r.message = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// The function `fails` runs a check that must fail and returns its message.
func fails(t *testing.T, check func(testing.TB)) string {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		check(r)
	}()
	<-done
	if r.message == "" {
		t.Error("the check did not fail")
	}
	return r.message
}

// A failing test never prints a whole certificate, request or page.
func TestFailuresAreShort(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	accepted := s.post(t, s.request(t, s.victim)) // 4 KB of base64
	if len(accepted.Body) < 2000 {
		t.Fatalf("the reply has only %d bytes", len(accepted.Body))
	}
	long := fleet.Body(`{"error":"limit","request":"` + strings.Repeat("MIIB", 1000) + `"}`)
	for name, check := range map[string]func(testing.TB){
		"refused, accepted": func(t testing.TB) { refused(t, accepted, 403, "ek-unlisted") },
		"refused, long":     func(t testing.TB) { refused(t, &fleet.Answer{Status: 400, Body: long}, 403, "ek-unlisted") },
		"waits":             func(t testing.TB) { waits(t, accepted, "ek-unlisted") },
		"must":              func(t testing.TB) { must(0, fmt.Errorf("fleet: %d: %s", 400, long))(t) },
	} {
		if message := fails(t, check); len(message) > 500 {
			t.Errorf("%s: a message of %d bytes", name, len(message))
		}
	}
}

// No failure message of this package prints a whole structure: each structure in a message is
// shortened with brief.Of.
func TestFailuresPrintStructuresByBrief(t *testing.T) {
	t.Parallel()
	whole := regexp.MustCompile(`%[+#]v`)
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, source, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			f, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || f.Sel.Name != "Errorf" && f.Sel.Name != "Fatalf" {
				return true
			}
			if format, ok := call.Args[0].(*ast.BasicLit); ok && whole.MatchString(format.Value) {
				t.Errorf("%s: print it with %%s and brief.Of", fset.Position(call.Pos()))
			}
			return true
		})
	}
}
