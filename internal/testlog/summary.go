package main

import (
	"bufio"
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// slow is the number of seconds that a test may take without a reason in slow.txt.
const slow = 10

//go:embed slow.txt
var slowText string

// reasons reads slow.txt. The file has a line "PACKAGE TEST: REASON" for each slow test. PACKAGE is
// relative to the module.
func reasons() map[key]string {
	list := map[key]string{}
	for line := range strings.Lines(slowText) {
		name, reason, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if pkg, test, named := strings.Cut(name, " "); ok && named && line[0] != '#' {
			list[key{pkg, test}] = reason
		}
	}
	return list
}

// entry is the time that one stage, package or test took, in seconds.
type entry struct {
	name    string
	seconds float64
}

// report contains the times of all stages.
type report struct {
	stages, packages, tests []entry
	passed, failed, skipped int
}

func (r *report) add(stage string, e event) {
	pkg := strings.TrimPrefix(e.Package, "gangway/")
	switch {
	case e.Action == "stage":
		r.stages = append(r.stages, entry{stage, e.Elapsed})
		return
	case e.Test == "":
		r.packages = append(r.packages, entry{fmt.Sprintf("%s (%s)", pkg, stage), e.Elapsed})
		return
	case strings.Contains(e.Test, "/"): // the time of a subtest is part of its parent's time
		return
	case e.Action == "pass":
		r.passed++
	case e.Action == "fail":
		r.failed++
	case e.Action == "skip":
		r.skipped++
	}
	if e.Elapsed >= slow {
		r.tests = append(r.tests, entry{pkg + " " + e.Test, e.Elapsed})
	}
}

// summarize prints the times of the stages whose files are in the folder `dir`.
func summarize(w io.Writer, dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("no stage has stored its times in %s", dir)
	}
	var r report
	for _, file := range files {
		if err := r.read(file); err != nil {
			return err
		}
	}
	for _, list := range [][]entry{r.stages, r.packages, r.tests} {
		slices.SortFunc(list, func(a, b entry) int { return cmp.Compare(b.seconds, a.seconds) })
	}
	out := bufio.NewWriter(w)
	fmt.Fprintln(out, "\nWhere the time went, in seconds:")
	for _, s := range r.stages {
		fmt.Fprintf(out, "%7.1f  %s\n", s.seconds, s.name)
	}
	fmt.Fprintln(out, "The slowest packages:")
	for _, p := range r.packages[:min(12, len(r.packages))] {
		fmt.Fprintf(out, "%7.1f  %s\n", p.seconds, p.name)
	}
	fmt.Fprintf(out, "Tests over %d s, with the reason:\n", slow)
	why := reasons()
	for _, t := range r.tests {
		pkg, test, _ := strings.Cut(t.name, " ")
		reason := cmp.Or(why[key{pkg, test}], "NO REASON: make the test faster, or write a reason into internal/testlog/slow.txt")
		fmt.Fprintf(out, "%7.1f  %s: %s\n", t.seconds, t.name, reason)
	}
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	return out.Flush()
}

func (r *report) read(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	stage := strings.TrimSuffix(filepath.Base(file), ".jsonl")
	for d := json.NewDecoder(f); ; {
		var e event
		if err := d.Decode(&e); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		r.add(stage, e)
	}
}
