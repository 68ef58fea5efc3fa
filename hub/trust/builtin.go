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

// files contains the built-in certificates, one in each file. 'make vendor-roots' makes the folder,
// whose README.md lists the certificates.
//
//go:embed roots/*/*.pem
var files embed.FS

// BuiltInSource is the Source of the built-in certificates.
const BuiltInSource = "built in"

// BuiltIn returns the TPM makers' certificates that are built into Gangway, ordered by maker and
// file name. The caller may change the slice, but not the certificates.
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
			panic(fmt.Sprintf("trust: %s contains no certificate", name))
		}
		c, err := Parse(block.Bytes, name)
		if err != nil {
			panic(fmt.Sprintf("trust: %s: %v", name, err)) // a test parses all these files
		}
		c.Maker, c.Source = path.Base(path.Dir(name)), BuiltInSource
		out = append(out, c)
	}
	return out
})

// origin returns the first line of a built-in certificate's file, which names the package and the
// file that the certificate comes from.
func origin(name string) string {
	text, err := files.ReadFile(name)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}
