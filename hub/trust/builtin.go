package trust

import (
	"embed"
	"encoding/pem"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"
)

// files are the certificates that come with Gangway, one a file. 'make
// vendor-roots' makes the folder; its README.md is the table of them.
//
//go:embed roots/*/*.pem
var files embed.FS

// BuiltInSource is the Source of what comes with Gangway.
const BuiltInSource = "built in"

// BuiltIn are the makers' certificates that come with Gangway, by maker and
// file name. The slice is the caller's; what it points to is not to be changed.
func BuiltIn() []Certificate { return append([]Certificate(nil), builtIn()...) }

var builtIn = sync.OnceValue(func() (out []Certificate) {
	names, err := fs.Glob(files, "roots/*/*.pem")
	if err != nil {
		panic(err)
	}
	for _, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			panic(err)
		}
		block, _ := pem.Decode(text)
		if block == nil {
			panic(fmt.Sprintf("trust: %s holds no certificate", name))
		}
		c, err := Parse(block.Bytes, name)
		if err != nil {
			panic(fmt.Sprintf("trust: %s: %v", name, err)) // a test reads them all
		}
		c.Maker, c.Source = path.Base(path.Dir(name)), BuiltInSource
		out = append(out, c)
	}
	return out
})

// origin is the first line of a built-in certificate's file: which file of
// which package it is.
func origin(name string) string {
	text, err := files.ReadFile(name)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}
