package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// programs are the names of the programs in a release.
var programs = []string{"gangway", "gangway-agent", "gangway-init"}

// writeSBOM writes a bill of materials as CycloneDX JSON. It lists the programs, and the modules
// that the go command recorded in each program.
func (r *release) writeSBOM(context.Context) error {
	top := cdx.Component{Type: cdx.ComponentTypeApplication, BOMRef: "gangway", Name: "gangway", Version: r.version,
		Licenses: &cdx.Licenses{{License: &cdx.License{ID: "Apache-2.0"}}}}
	modules := map[string]cdx.Component{}
	var components []cdx.Component
	var graph []cdx.Dependency
	var all []string
	for _, arch := range r.archs {
		names := programs
		if r.signer && arch == signerArch {
			names = append(slices.Clone(programs), "gangway-signer")
		}
		for _, name := range names {
			path := r.program(arch, name)
			info, err := buildinfo.ReadFile(path)
			if err != nil {
				return err
			}
			hash, err := sha256Of(path)
			if err != nil {
				return err
			}
			ref := name + "-linux-" + arch
			components = append(components, cdx.Component{Type: cdx.ComponentTypeApplication, BOMRef: ref, Name: ref, Version: r.version,
				Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hash}}})
			all = append(all, ref)
			uses := []string{}
			for _, m := range modulesOf(info) {
				modules[m.BOMRef] = m
				uses = append(uses, m.BOMRef)
			}
			slices.Sort(uses)
			graph = append(graph, cdx.Dependency{Ref: ref, Dependencies: &uses})
		}
	}
	for _, m := range modules {
		components = append(components, m)
	}
	slices.SortFunc(components, func(a, b cdx.Component) int { return cmp.Compare(a.BOMRef, b.BOMRef) })
	graph = append(graph, cdx.Dependency{Ref: top.BOMRef, Dependencies: &all})

	bom := cdx.NewBOM()
	bom.SerialNumber = r.serialNumber()
	bom.Metadata = &cdx.Metadata{Timestamp: r.date.Format(time.RFC3339), Component: &top}
	bom.Components, bom.Dependencies = &components, &graph
	out, err := os.Create(filepath.Join(r.out, "gangway-"+r.version+".cdx.json"))
	if err != nil {
		return err
	}
	return errors.Join(cdx.NewBOMEncoder(out, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cdx.SpecVersion1_6), out.Close())
}

// modulesOf returns the modules in a program, and the standard library as one more module.
func modulesOf(info *debug.BuildInfo) []cdx.Component {
	list := []cdx.Component{module("stdlib", strings.TrimPrefix(info.GoVersion, "go"))}
	for _, m := range info.Deps {
		if m.Replace != nil && m.Replace.Version == "" {
			continue // a folder of the source tree: gangway-signer uses packages of Gangway
		}
		if m.Replace != nil {
			m = m.Replace
		}
		list = append(list, module(m.Path, m.Version))
	}
	return list
}

func module(path, version string) cdx.Component {
	purl := "pkg:golang/" + (&url.URL{Path: path}).EscapedPath() + "@" + url.QueryEscape(version)
	return cdx.Component{Type: cdx.ComponentTypeLibrary, BOMRef: purl, Name: path, Version: version, PackageURL: purl}
}

// serialNumber returns a UUID that depends only on the content of the release.
func (r *release) serialNumber() string {
	sum := sha256.Sum256([]byte("gangway\n" + r.version + "\n" + r.commit + "\n" + r.date.Format(time.RFC3339)))
	sum[6] = sum[6]&0x0F | 0x80 // RFC 9562, version 8
	sum[8] = sum[8]&0x3F | 0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

func sha256Of(path string) (string, error) {
	b, err := os.ReadFile(path)
	return fmt.Sprintf("%x", sha256.Sum256(b)), err
}
