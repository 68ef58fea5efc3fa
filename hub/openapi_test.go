package hub_test

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The document says what there is: each route is in it, and nothing else.
func TestOpenAPIDescribesEveryRoute(t *testing.T) {
	source, err := os.ReadFile("hub.go")
	if err != nil {
		t.Fatal(err)
	}
	var routes []string
	for _, m := range regexp.MustCompile(`(?m)^\s+(?:handle|both)\("([A-Z]+)(?: |", ")(/[^"]*)"`).FindAllSubmatch(source, -1) {
		routes = append(routes, string(m[1])+" "+strings.TrimSuffix(string(m[2]), "{$}"))
	}
	if len(routes) < 25 {
		t.Fatalf("only %d routes were found in hub.go: %q", len(routes), routes)
	}
	_, body := newScene(t).person(t, "").do("GET", "/openapi.json", nil)
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			Summary   string
			Responses map[string]any
		}
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		t.Fatal(err)
	}
	var documented []string
	for path, ops := range doc.Paths {
		for method, op := range ops {
			documented = append(documented, strings.ToUpper(method)+" "+path)
			if op.Summary == "" || len(op.Responses) == 0 {
				t.Errorf("%s %s has no summary or no answer", method, path)
			}
		}
	}
	for _, r := range routes {
		if !slices.Contains(documented, r) {
			t.Errorf("%s is not in the document", r)
		}
	}
	for _, d := range documented {
		if !slices.Contains(routes, d) {
			t.Errorf("%s is in the document and no route", d)
		}
	}
	for _, m := range regexp.MustCompile(`#/components/schemas/(\w+)`).FindAllSubmatch(body, -1) {
		if doc.Components.Schemas[string(m[1])] == nil {
			t.Errorf("schema %s is not there", m[1])
		}
	}
}
