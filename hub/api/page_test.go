package api

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/internal/brief"
)

// codeRooms lists the packages whose code refuses requests with an error code.
var codeRooms = []string{"api", "boot", "evidence", "fetch", "onboard", "policy", "search"}

// The table of error codes in docs/protocol.md has all codes of the hub, with their statuses, and
// no others.
func TestProtocolListsEveryErrorCode(t *testing.T) {
	t.Parallel()
	made := errorCodes(t)
	if len(made) < 100 {
		t.Fatalf("only %d codes were found in the code: %s", len(made), brief.Of(made))
	}
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(doc), "\n## 11. ")
	if !ok {
		t.Fatal("docs/protocol.md has no section 11")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	listed := map[string]string{} // from a code to its statuses
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\| ([0-9, ]+) \\|").FindAllStringSubmatch(section, -1) {
		if listed[m[1]] != "" {
			t.Errorf("docs/protocol.md lists %s twice", m[1])
		}
		listed[m[1]] = m[2]
	}
	for _, code := range slices.Sorted(maps.Keys(made)) {
		if listed[code] == "" {
			t.Errorf("docs/protocol.md, section 11, lacks %s (%s)", code, made[code].at)
		} else if want := made[code].words(); listed[code] != want {
			t.Errorf("docs/protocol.md, section 11: %s comes with %s, not %s", code, want, listed[code])
		}
	}
	for _, code := range slices.Sorted(maps.Keys(listed)) {
		if made[code] == nil {
			t.Errorf("docs/protocol.md, section 11, lists %s, which no code makes", code)
		}
	}
}

// The routes for devices that docs/protocol.md lists exist on the hub, with the stated limits of
// their body sizes and rates.
func TestProtocolRoutesAndLimits(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	var source []byte
	for _, name := range []string{"server.go", "logretention.go"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, text...)
	}
	rateOf := map[string]string{"onboarding": onboardRate, "signatures": signatureRate, "measurements": bootRate, "–": unlimited}
	table := map[string]*route{}
	for i := range routes {
		table[routes[i].name()] = &routes[i]
	}
	rows := regexp.MustCompile("(?m)^\\| `([A-Z]+ /[^`]+)` \\| [a-z, ]+ \\| ([^|]+) \\| ([^|]+) \\|$").FindAllStringSubmatch(string(doc), -1)
	if len(rows) < 15 {
		t.Fatalf("docs/protocol.md lists only %d routes", len(rows))
	}
	listed := map[string]bool{}
	for _, row := range rows {
		route, body, rate := row[1], row[2], row[3]
		listed[route] = true
		rt := table[route]
		if rt == nil {
			t.Errorf("the hub has no route %s", route)
			continue
		}
		if want, known := rateOf[rate]; !known || rt.rate != want {
			t.Errorf("%s: the page says the rate %q, the route table %q", route, rate, rt.rate)
		}
		if body == "–" && rt.body != noBody || body != "–" && int64(size(body)) != rt.body {
			t.Errorf("%s: the page says %s, the hub takes %d bytes", route, body, rt.body)
		}
	}
	// docs/protocol.md must name every route that has one of the rate limits for onboarding.
	for name, rt := range table {
		if (rt.rate == onboardRate || rt.rate == signatureRate) && !listed[name] {
			t.Errorf("the page lacks %s", name)
		}
	}
	text := strings.Join(strings.Fields(string(doc)), " ") // sentences span several lines
	for _, want := range []struct{ page, code string }{
		{"A header may have 16 KiB and", "MaxHeaderBytes:    16 << 10,"},
		{"20,000 lines and 8 MiB of each device for 30 days", "store.LogBounds{Rows: 20_000, Bytes: 8 << 20}"},
	} {
		if !strings.Contains(text, want.page) || !strings.Contains(string(source), want.code) {
			t.Errorf("docs/protocol.md says %q, or does not, and the code %q, or does not", want.page, want.code)
		}
	}
	rates := DefaultRates()
	for page, r := range map[string]Rate{
		"| onboarding | %v a second | %d |": rates["onboard"], "| signatures | %v a second | %d |": rates["signature"],
	} {
		if row := fmt.Sprintf(page, r.PerSecond, r.Burst); !strings.Contains(text, row) {
			t.Errorf("docs/protocol.md lacks %q", row)
		}
	}
	if row := fmt.Sprintf("| measurements | 1 in %v seconds | %d |", 1/rates["boot"].PerSecond, rates["boot"].Burst); !strings.Contains(text, row) {
		t.Errorf("docs/protocol.md lacks %q", row)
	}
	times := Timeouts{}.withDefaults()
	if line := fmt.Sprintf("and take %v seconds. A TLS handshake may take %v seconds, a request %v seconds, and an answer %v seconds. The hub closes an idle connection after two minutes", times.Header.Seconds(), times.Header.Seconds(), times.Request.Seconds(), times.Request.Seconds()); !strings.Contains(text, line) || times.Idle != 2*time.Minute {
		t.Errorf("docs/protocol.md lacks %q", line)
	}
	if size("256 KiB") != store.MaxMeta || !strings.Contains(text, "If `device-meta` would have more than 256 KiB as JSON") {
		t.Error("docs/protocol.md has another bound of the metadata")
	}
}

// size parses a size such as "64 KiB", in bytes. It returns 0 for other text.
func size(words string) int {
	number, unit, _ := strings.Cut(words, " ")
	n, err := strconv.Atoi(number)
	if err != nil {
		return 0
	}
	return n * map[string]int{"KiB": 1 << 10, "MiB": 1 << 20}[unit]
}

// madeCode has a place in the source that makes an error code, and the HTTP statuses that the hub
// sends with this code.
type madeCode struct {
	at       string
	statuses map[int]bool
}

func (m *madeCode) words() string {
	var words []string
	for _, status := range slices.Sorted(maps.Keys(m.statuses)) {
		words = append(words, strconv.Itoa(status))
	}
	return strings.Join(words, ", ")
}

// errorCodes finds the codes of refusals and problems in the source, each with a place that makes
// it. If errorCodes cannot evaluate an expression, it fails the test, so that no code is missed.
func errorCodes(t *testing.T) map[string]*madeCode {
	t.Helper()
	c := codes{t: t, made: map[string]*madeCode{}, constants: map[string]string{}}
	for _, room := range codeRooms {
		files := parseRoom(t, &c.fset, room)
		for _, f := range files {
			ast.Inspect(f, func(n ast.Node) bool {
				if spec, ok := n.(*ast.ValueSpec); ok {
					for i, v := range spec.Values {
						if text, ok := literal(v); ok && strings.HasPrefix(spec.Names[i].Name, "Code") {
							c.constants[room+"."+spec.Names[i].Name] = text
						}
					}
				}
				return true
			})
		}
	}
	for _, room := range codeRooms {
		c.room = room
		for _, f := range parseRoom(t, &c.fset, room) {
			for _, d := range f.Decls {
				c.function = ""
				if fn, ok := d.(*ast.FuncDecl); ok {
					c.function = fn.Name.Name
				}
				ast.Inspect(d, c.look)
			}
		}
	}
	return c.made
}

type codes struct {
	t         *testing.T
	fset      token.FileSet
	made      map[string]*madeCode
	constants map[string]string // by "package.Name"
	room      string            // the package that is being read
	function  string            // the function that is being read
	status    int               // the HTTP status in the call that makes the code; 0: statusOf returns it
}

// In package evidence, the checks of keys join their codes from two parts. The first part, from
// keys, is the kind of key: EK, IAK or IDevID key. The second part, from lacks, is the missing
// attribute.
var (
	keys  = []string{"ek", "iak", "idevid"}
	lacks = []string{"not-fixed-tpm", "not-fixed-parent", "not-tpm-made", "not-signing"}
)

// passedOn lists the functions that get a code from their caller and use it unchanged.
var passedOn = []string{"problem", "refuse", "malformed", "fail", "knownProblem", "outcome", "on"}

func (c *codes) look(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.CallExpr:
		name := ""
		switch f := n.Fun.(type) {
		case *ast.Ident:
			name = f.Name
		case *ast.SelectorExpr:
			name = f.Sel.Name
		}
		switch {
		case name == "problem" && len(n.Args) > 2:
			c.status = c.statusOf(n.Args[0])
			c.expression(n.Args[1])
			c.status = 0
		case (name == "refuse" || name == "malformed") && len(n.Args) > 1:
			c.expression(n.Args[0])
		}
	case *ast.CompositeLit:
		kind := ""
		switch k := n.Type.(type) {
		case *ast.Ident:
			kind = k.Name
		case *ast.SelectorExpr:
			kind = k.Sel.Name
		}
		if c.room == "search" && kind == "Error" { // package api answers a search.Error with this code and status 400
			c.status = http.StatusBadRequest
			defer func() { c.status = 0 }()
		} else if kind != "Refusal" && kind != "Problem" {
			return true
		}
		for _, e := range n.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok {
				if k, ok := kv.Key.(*ast.Ident); ok && k.Name == "Code" {
					c.expression(kv.Value)
				}
			}
		}
	}
	return true
}

func (c *codes) expression(e ast.Expr) {
	if text, ok := literal(e); ok {
		c.add(text, e)
		return
	}
	switch e := e.(type) {
	case *ast.Ident, *ast.SelectorExpr:
		name := ""
		switch e := e.(type) {
		case *ast.Ident:
			name = c.room + "." + e.Name
		case *ast.SelectorExpr:
			if x, ok := e.X.(*ast.Ident); ok {
				name = x.Name + "." + e.Sel.Name
			}
		}
		if text, known := c.constants[name]; known {
			c.add(text, e)
			return
		}
		if slices.Contains(passedOn, c.function) {
			return
		}
	case *ast.BinaryExpr:
		// In the expressions code+"-roca" and code+"-"+a.code, the variable `code` has a value in
		// keys, and a.code a value in lacks.
		if id, ok := e.X.(*ast.Ident); ok && id.Name == "code" {
			if end, ok := literal(e.Y); ok {
				for _, key := range keys {
					if c.can(key, end) {
						c.add(key+end, e)
					}
				}
				return
			}
		}
		if _, ok := e.X.(*ast.BinaryExpr); ok {
			for _, key := range keys[1:] {
				for _, lack := range lacks {
					c.add(key+"-"+lack, e)
				}
			}
			return
		}
	}
	c.t.Errorf("%s: this test cannot tell which error codes these are", c.fset.Position(e.Pos()))
}

// The method `can` reports whether the check of the key `key` can fail with a code that ends in
// `end`. checkKey never checks an EK. Only an IAK must be restricted, and only an IDevID key must
// not be.
func (c *codes) can(key, end string) bool {
	switch {
	case end == "-not-restricted":
		return key == "iak"
	case end == "-restricted":
		return key == "idevid"
	}
	return key != "ek" || c.function != "checkKey"
}

func (c *codes) add(code string, at ast.Node) {
	status := c.status
	if status == 0 {
		status = statusOf(code)
	}
	m := c.made[code]
	if m == nil {
		m = &madeCode{at: c.fset.Position(at.Pos()).String(), statuses: map[int]bool{}}
		c.made[code] = m
	}
	m.statuses[status] = true
}

// statusOf returns the HTTP status of an expression such as http.StatusNotFound.
func (c *codes) statusOf(e ast.Expr) int {
	if s, ok := e.(*ast.SelectorExpr); ok {
		for status := 400; status < 600; status++ {
			// A constant's name ends in its text without spaces: StatusNotFound is "Not Found".
			if s.Sel.Name == "Status"+strings.ReplaceAll(http.StatusText(status), " ", "") {
				return status
			}
		}
	}
	c.t.Errorf("%s: this test cannot tell which status this is", c.fset.Position(e.Pos()))
	return 0
}

func literal(e ast.Expr) (string, bool) {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(l.Value)
	return s, err == nil
}

// parseRoom parses a package's files without its tests.
func parseRoom(t *testing.T, fset *token.FileSet, room string) (files []*ast.File) {
	t.Helper()
	dir := filepath.Join("..", room)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() || !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, filepath.Join(dir, e.Name()), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}
