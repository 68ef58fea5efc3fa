package ui

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html/template"
	"path"
	"regexp"
	"strings"
	"sync"
)

//go:embed app.css app.js logo.svg vendor/htmx.min.js
var assetFiles embed.FS

//go:embed vendor/icons/*.svg
var iconFiles embed.FS

// Asset is a static file of the pages.
type Asset struct {
	Type    string // content type
	Content []byte
	Gzip    []byte // compressed Content. Static files have no secrets, so compression leaks none.
}

// assetList holds the static files. The address of a file contains a hash of the file, so that a
// changed file gets another address, and browsers may use a cached file without asking the hub.
type assetList struct {
	byName map[string]Asset  // by the name in the address
	paths  map[string]string // the addresses, by the file's name
}

var assets = sync.OnceValue(readAssets)

var assetTypes = map[string]string{
	".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
}

func readAssets() assetList {
	list := assetList{map[string]Asset{}, map[string]string{}}
	for _, file := range []string{"app.css", "app.js", "logo.svg", "vendor/htmx.min.js"} {
		content, err := assetFiles.ReadFile(file)
		if err != nil {
			panic(err)
		}
		sum, base, ext := sha256.Sum256(content), path.Base(file), path.Ext(file)
		name := strings.TrimSuffix(base, ext) + "." + hex.EncodeToString(sum[:6]) + ext
		list.byName[name] = Asset{Type: assetTypes[ext], Content: content, Gzip: compressed(content)}
		list.paths[base] = "/assets/" + name
	}
	return list
}

func compressed(content []byte) []byte {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		panic(err)
	}
	if _, err := w.Write(content); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// AssetPath returns the address of a static file, such as app.css. It panics if there is no such
// file.
func AssetPath(name string) string {
	p, ok := assets().paths[name]
	if !ok {
		panic("ui: there is no asset " + name)
	}
	return p
}

// AssetNamed finds a static file by the name in its address.
func AssetNamed(name string) (Asset, bool) {
	a, ok := assets().byName[name]
	return a, ok
}

var icons = sync.OnceValue(readIcons)

// inStyleSheet matches the attributes of an icon that the rule svg.lucide of the style sheet sets.
// A list repeats its icons in each row, so leaving out these attributes makes pages much smaller.
var inStyleSheet = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(` (xmlns|width|height|fill|stroke|stroke-width|stroke-linecap|stroke-linejoin|class)="[^"]*"`)
})

// readIcons reads the icons as pieces of HTML. Screen readers skip them, because each icon has a
// word next to it.
func readIcons() map[string]template.HTML {
	files, err := iconFiles.ReadDir("vendor/icons")
	if err != nil {
		panic(err)
	}
	m := make(map[string]template.HTML, len(files))
	for _, f := range files {
		content, err := iconFiles.ReadFile("vendor/icons/" + f.Name())
		if err != nil {
			panic(err)
		}
		_, svg, ok := strings.Cut(string(content), "<svg")
		if !ok {
			panic("ui: " + f.Name() + " is not an SVG file")
		}
		head, shapes, _ := strings.Cut(strings.Join(strings.Fields(svg), " "), ">")
		head = inStyleSheet().ReplaceAllString(" "+strings.TrimSpace(head), "")
		shapes = strings.ReplaceAll(strings.ReplaceAll(strings.TrimSpace(shapes), " />", "/>"), "> <", "><")
		m[strings.TrimSuffix(f.Name(), ".svg")] = template.HTML(`<svg class="lucide" aria-hidden="true"` + head + ">" + shapes)
	}
	return m
}

// icon returns an icon. It panics if there is no such icon.
func icon(name string) template.HTML {
	svg, ok := icons()[name]
	if !ok {
		panic("ui: there is no icon " + name)
	}
	return svg
}
