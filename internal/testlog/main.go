// Command testlog runs one stage of the project's tests, prints a short form of its output, and
// records how long everything took:
//
//	testlog -stage race -- go test -json ./...
//	testlog -summary
//
// If the stage's command is "go test -json", testlog prints one line per package, and the whole
// output of failed tests. It prints the output of any other command unchanged. With -log it also
// writes the whole output to a file. testlog exits with the exit code of the command.
//
// Each stage writes a file of JSON lines to the folder -dir (build/times). With -summary, testlog
// reads these files. It prints the times of the stages and of the slowest packages. It also lists
// every test that took more than ten seconds, with the reason that slow.txt gives for this.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// event is a line of "go test -json", as "go doc test2json" documents it. A line about a whole
// stage has the Action "stage".
type event struct {
	Action  string
	Package string `json:",omitempty"`
	Test    string `json:",omitempty"`
	Output  string `json:",omitempty"`
	Elapsed float64
}

func main() {
	stage := flag.String("stage", "", "name of the stage to run")
	dir := flag.String("dir", "build/times", "folder in which each stage stores its times")
	log := flag.String("log", "", "write the whole output to this file")
	summary := flag.Bool("summary", false, "print the times of all stages")
	flag.Parse()
	code, err := 0, error(nil)
	switch {
	case *summary && flag.NArg() == 0:
		err = summarize(os.Stdout, *dir)
	case *stage != "" && flag.NArg() > 0:
		code, err = run(os.Stdout, *dir, *stage, *log, flag.Args())
	default:
		err = errors.New("usage: testlog -stage NAME -- COMMAND [ARGUMENT ...], or testlog -summary")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testlog:", err)
		os.Exit(2)
	}
	os.Exit(code)
}

// run runs a stage's command and returns its exit code.
func run(w io.Writer, dir, stage, log string, command []string) (int, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	record, err := os.Create(filepath.Join(dir, stage+".jsonl"))
	if err != nil {
		return 0, err
	}
	defer record.Close()
	whole := io.Discard
	if log != "" {
		f, err := os.Create(log)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		whole = f
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	p := printer{w: w, whole: whole, record: json.NewEncoder(record), output: map[key]*bytes.Buffer{}}
	err = errors.Join(p.read(out), p.record.Encode(event{Action: "stage", Package: stage, Elapsed: time.Since(start).Seconds()}))
	var exit *exec.ExitError
	if wait := cmd.Wait(); errors.As(wait, &exit) {
		return max(exit.ExitCode(), 1), err // after a signal, ExitCode is -1
	} else if wait != nil {
		return 0, wait
	}
	return 0, errors.Join(err, record.Close())
}

// key identifies a test or, if test is empty, a package.
type key struct{ pkg, test string }

// printer prints the short form of events.
type printer struct {
	w, whole io.Writer
	record   *json.Encoder
	output   map[key]*bytes.Buffer // output of tests that have not ended yet
}

func (p *printer) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			if err := p.line(line); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (p *printer) line(line []byte) error {
	var e event
	if line[0] != '{' || json.Unmarshal(line, &e) != nil || e.Action == "" {
		_, err := p.w.Write(line)
		return errors.Join(err, p.keep(line))
	}
	k := key{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		_, err := io.WriteString(p.w, e.Output)
		return errors.Join(err, p.keep([]byte(e.Output)))
	case "output":
		if p.output[k] == nil {
			p.output[k] = new(bytes.Buffer)
		}
		p.output[k].WriteString(e.Output)
		return p.keep([]byte(e.Output))
	case "pass", "fail", "skip":
		if err := p.ended(e); err != nil {
			return err
		}
		delete(p.output, k)
		return p.record.Encode(e)
	}
	return nil
}

func (p *printer) keep(line []byte) error {
	_, err := p.whole.Write(line)
	return err
}

// The method `ended` handles the end of a test or a package: it prints the output of a failed test,
// or the last line of a package's output.
func (p *printer) ended(e event) error {
	out := p.output[key{e.Package, e.Test}]
	if out == nil {
		out = new(bytes.Buffer)
	}
	if e.Test != "" {
		if e.Action != "fail" {
			return nil
		}
		_, err := fmt.Fprintf(p.w, "%s %s\n%s", e.Package, e.Test, out)
		return err
	}
	text := out.Bytes()
	if e.Action == "skip" {
		return nil // the package has no tests
	}
	if e.Action != "fail" {
		// The last line consists of "ok", the package, the seconds, and possibly "(cached)".
		text = bytes.TrimRight(text, "\n")
		text = append(bytes.Clone(text[bytes.LastIndexByte(text, '\n')+1:]), '\n')
	}
	_, err := p.w.Write(text)
	return err
}
