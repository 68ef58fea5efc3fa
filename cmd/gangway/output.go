package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"gangway/internal/cmdline"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"golang.org/x/term"
	"golang.org/x/text/width"
)

// The output formats. "text" is another name of "table", which older versions used.
const (
	formatTable = "table"
	formatText  = "text"
	formatWide  = "wide"
	formatJSON  = "json"
	formatYAML  = "yaml"
	formatCSV   = "csv"
	formatJSONL = "jsonl"
)

// The annotation tableKey marks a cobra command that prints a table. The annotation linesKey marks
// a command that can also print jsonl.
const (
	tableKey = "table"
	linesKey = "lines"
)

// table adds the flags for tables to a command. The argument `names` has the columns' names.
func (a *app) table(c *cobra.Command, names ...string) *cobra.Command {
	if c.Annotations == nil {
		c.Annotations = map[string]string{}
	}
	c.Annotations[tableKey] = strings.Join(names, ",")
	f := c.Flags()
	formats := "table, wide (all columns), json, yaml or csv"
	if c.Annotations[linesKey] != "" {
		formats = "table, wide (all columns), json, jsonl, yaml or csv"
	}
	f.StringVarP(&a.output, "output", "o", formatTable, "output format: "+formats)
	f.StringSliceVar(&a.columns, "columns", nil, "columns to print: "+strings.Join(names, ", "))
	return c
}

// checkOutput checks --output and --columns.
func (a *app) checkOutput(c *cobra.Command) error {
	_, table := c.Annotations[tableKey]
	if a.output == formatWide && !table && cmdline.IsFromEnvironment(c, "output") {
		a.output = formatTable // GANGWAY_OUTPUT=wide is for lists; other commands use the format table
	}
	if f := c.Flags().Lookup("out"); f != nil && slices.Contains([]string{formatTable, formatText, formatWide, formatJSON, formatYAML, formatCSV}, f.Value.String()) {
		return usagef("-o names the output file, so -o %s would write a file named %s; to choose the format, use --output %s; to write a file with this name, use -o ./%s", f.Value, f.Value, f.Value, f.Value)
	}
	if len(a.columns) > 0 && !slices.Contains([]string{formatTable, formatText, formatWide, formatCSV}, a.output) {
		return usagef("--columns is for the formats table, wide and csv; use --output csv, or choose the fields of the JSON with jq")
	}
	switch a.output {
	case formatText, formatJSON, formatYAML, formatTable:
		return nil
	case formatWide, formatCSV:
		if table {
			return nil
		}
		return usagef("--output %s is for commands that print a list; '%s' supports table, json and yaml", a.output, c.CommandPath())
	case formatJSONL:
		if c.Annotations[linesKey] != "" {
			return nil
		}
		return usagef("--output jsonl is for 'gangway events' and 'gangway device logs' only; use json")
	}
	if table {
		return usagef("--output must be table, wide, json, yaml or csv, not %q", a.output)
	}
	return usagef("--output must be table, json or yaml, not %q", a.output)
}

// forPeople reports whether the output is text for people, and not a format for programs.
func (a *app) forPeople() bool {
	return a.output == formatTable || a.output == formatText || a.output == formatWide || a.output == ""
}

// json prints `v` if the output format is JSON or YAML. It reports whether it printed `v`.
func (a *app) json(v any) (bool, error) {
	switch a.output {
	case formatJSON:
		return true, writeJSON(a.stdout, v)
	case formatYAML:
		return true, writeYAML(a.stdout, v)
	}
	return false, nil
}

// writeJSON writes indented JSON.
func writeJSON(w io.Writer, v any) error {
	text, err := encodeJSON(v, "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

// encodeJSON returns JSON in which control characters are escaped, because a terminal would
// interpret them. Control characters occur only in strings, where JSON's escapes stand for the same
// characters.
func encodeJSON(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return escapeRunes(b.Bytes(), func(r rune) string {
		hi, lo := utf16.EncodeRune(r)
		return fmt.Sprintf(`\u%04x\u%04x`, hi, lo)
	}), nil
}

// escapeRunes replaces the characters in JSON or YAML that a terminal would interpret. The function
// `high` returns the escape of a character above U+FFFF.
func escapeRunes(text []byte, high func(rune) string) []byte {
	var out bytes.Buffer
	for _, r := range string(text) {
		switch {
		case r == '\n' || unicode.IsPrint(r):
			out.WriteRune(r)
		case r > 0xffff:
			out.WriteString(high(r))
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.Bytes()
}

// writeYAML writes `v` as YAML. The names and their order are the same as in JSON.
func writeYAML(w io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	n, err := yamlNode(d)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(n); err != nil {
		return err
	}
	_, err = w.Write(escapeRunes(b.Bytes(), func(r rune) string { return fmt.Sprintf(`\U%08x`, r) }))
	return err
}

// yamlNode reads a JSON value as a YAML node.
func yamlNode(d *json.Decoder) (*yaml.Node, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Delim:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		if t == '{' {
			n.Kind = yaml.MappingNode
		}
		for d.More() { // in a mapping, names and values alternate
			child, err := yamlNode(d)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, child)
		}
		if len(n.Content) == 0 {
			n.Style = yaml.FlowStyle
		}
		_, err := d.Token()
		return n, err
	case string:
		n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: t}
		if strings.ContainsFunc(t, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
			n.Style = yaml.DoubleQuotedStyle // escapeRunes may write escapes in this style
		}
		return n, nil
	case json.Number:
		tag := "!!int"
		if strings.ContainsAny(t.String(), ".eE") {
			tag = "!!float"
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: t.String()}, nil
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: fmt.Sprint(t)}, nil
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}, nil
}

// visible escapes two kinds of characters in a text: those that a terminal would interpret, and
// those that change the direction of text. Each text that a device or another person wrote must
// pass through this function before a terminal gets the text.
func visible(s string) string { return escaped(s, "") }

// visibleText is like the function `visible`, but keeps line breaks and tabs.
func visibleText(s string) string { return escaped(s, "\n\t") }

func escaped(s, keep string) string {
	if !strings.ContainsFunc(s, func(r rune) bool {
		return r == utf8.RuneError || !unicode.IsPrint(r) && !strings.ContainsRune(keep, r)
	}) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r), strings.ContainsRune(keep, r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	return b.String()
}

// visibleArgs applies the function `visible` to the strings among a format's arguments.
func visibleArgs(args []any) []any {
	out := slices.Clone(args)
	for i, arg := range out {
		switch v := arg.(type) {
		case string:
			out[i] = visibleText(v)
		case error:
			out[i] = visibleText(v.Error())
		case fmt.Stringer:
			out[i] = visibleText(v.String())
		}
	}
	return out
}

func (a *app) printf(format string, args ...any) {
	fmt.Fprintf(a.stdout, format, visibleArgs(args)...)
}

// note prints a line for people on standard error. Standard output has only a
// command's result, for programs to read.
func (a *app) note(format string, args ...any) {
	fmt.Fprintf(a.stderr, format+"\n", visibleArgs(args)...)
}

// tone is the colour of a table's cell. It adds no meaning to the cell's words.
type tone string

const (
	plainTone tone = ""
	good      tone = "32"
	attention tone = "33"
	bad       tone = "31"
	faint     tone = "2"
)

// column is a column of a table whose rows have the type T.
type column[T any] struct {
	name string         // the name for --columns; in upper case, it is the heading
	cell func(T) string // text of the cell for people
	// value returns the cell's text in CSV, for programs. If `value` is nil, CSV has the text that
	// `cell` returns.
	value func(T) string
	tone  func(T) tone // nil: no colour
	wide  bool         // shown only with --output wide, or if --columns names the column
	whole bool         // never shortened to fit the terminal
	// moving is true if the cell changes with time, or each time the device contacts the hub.
	moving bool
}

func columnNames[T any](cols []column[T]) (list []string) {
	for _, c := range cols {
		list = append(list, c.name)
	}
	return list
}

// printList prints a list in the output format. If the list is empty and the format is a table, it
// prints the note `empty`.
func printList[T any](a *app, list []T, cols []column[T], empty string) error {
	if list == nil {
		list = []T{}
	}
	if done, err := a.json(list); done {
		return err
	}
	chosen, err := chosenColumns(a, cols)
	if err != nil {
		return err
	}
	if a.output == formatCSV {
		return writeCSV(a.stdout, list, chosen)
	}
	if len(list) == 0 {
		a.note("%s", empty)
		return nil
	}
	_, err = a.stdout.Write(formatTableOf(list, chosen, a.width(), a.colour()))
	return err
}

// chosenColumns returns the columns that --columns names or, without --columns, the columns of the
// output format.
func chosenColumns[T any](a *app, cols []column[T]) (chosen []column[T], err error) {
	if len(a.columns) == 0 {
		return usualColumns(a, cols), nil
	}
	for _, name := range a.columns {
		name = strings.ReplaceAll(strings.ToLower(strings.TrimSpace(name)), " ", "-")
		i := slices.IndexFunc(cols, func(c column[T]) bool { return c.name == name })
		if i < 0 {
			return nil, usagef("--columns: there is no column %q; the columns are %s", name, strings.Join(columnNames(cols), ", "))
		}
		chosen = append(chosen, cols[i])
	}
	return chosen, nil
}

// usualColumns returns the columns that the output format has without --columns.
func usualColumns[T any](a *app, cols []column[T]) (chosen []column[T]) {
	for _, c := range cols {
		if (!c.wide || a.output == formatWide || a.output == formatCSV) && !(c.moving && a.steady) {
			chosen = append(chosen, c)
		}
	}
	return chosen
}

func heading(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", " ")) }

// gap is the number of spaces between columns.
const gap = 2

// least is the minimum width to which a column is shortened. It leaves room for eight digits of an
// id.
const least = 9

// formatTableOf formats a table. If `limit` is not 0, it is the maximum width of a line, in cells
// of the terminal. If necessary, formatTableOf shortens the widest columns.
func formatTableOf[T any](list []T, cols []column[T], limit int, colour bool) []byte {
	rows := make([][]string, len(list)+1)
	widths := make([]int, len(cols))
	for i := range rows {
		rows[i] = make([]string, len(cols))
		for j, c := range cols {
			if i == 0 {
				rows[i][j] = heading(c.name)
			} else {
				rows[i][j] = visible(c.cell(list[i-1]))
			}
			widths[j] = max(widths[j], displayWidth(rows[i][j]))
		}
	}
	if limit > 0 {
		fit(widths, cols, limit)
	}
	var b bytes.Buffer
	for i, row := range rows {
		for j, c := range cols {
			text := shorten(row[j], widths[j])
			pad := widths[j] - displayWidth(text) + gap
			switch {
			case !colour:
			case i == 0:
				text = paint(faint, text)
			case c.tone != nil:
				text = paint(c.tone(list[i-1]), text)
			}
			b.WriteString(text)
			if j < len(cols)-1 {
				b.WriteString(strings.Repeat(" ", pad))
			}
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

func fit[T any](widths []int, cols []column[T], limit int) {
	for {
		total, widest := gap*(len(widths)-1), -1
		for j, w := range widths {
			total += w
			if !cols[j].whole && w > least && (widest < 0 || w > widths[widest]) {
				widest = j
			}
		}
		if total <= limit || widest < 0 {
			return
		}
		widths[widest]--
	}
}

func paint(t tone, text string) string {
	if t == plainTone || text == "" {
		return text
	}
	return "\x1b[" + string(t) + "m" + text + "\x1b[0m"
}

// displayWidth returns the width of a text on a terminal, in cells.
func displayWidth(s string) (n int) {
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

func runeWidth(r rune) int {
	if unicode.In(r, unicode.Mn, unicode.Me) {
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// shorten truncates a text to a number of cells. The last cell is then "…".
func shorten(s string, cells int) string {
	if displayWidth(s) <= cells {
		return s
	}
	n := 0
	for i, r := range s {
		if n += runeWidth(r); n > cells-1 {
			return s[:i] + "…"
		}
	}
	return s
}

// writeCSV writes a table for spreadsheets and programs.
func writeCSV[T any](w io.Writer, list []T, cols []column[T]) error {
	out := csv.NewWriter(w)
	if err := out.Write(columnNames(cols)); err != nil {
		return err
	}
	for _, one := range list {
		record := make([]string, len(cols))
		for j, c := range cols {
			cell := c.cell
			if c.value != nil {
				cell = c.value
			}
			record[j] = safeCell(visible(cell(one)))
		}
		if err := out.Write(record); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// safeCell adds an apostrophe before a text that a spreadsheet would read as a formula. Such texts
// are possible because a device chooses its own model and serial number.
func safeCell(s string) string {
	if s != "" && strings.ContainsRune("=+-@", rune(s[0])) && strings.Trim(s, "-.0123456789") != "" {
		return "'" + s
	}
	return s
}

// terminal returns the terminal to which the output goes, or nil if the output does not go to a
// terminal.
func (a *app) terminal() *os.File {
	if a.screen != nil {
		return a.screen
	}
	if f, ok := a.stdout.(*os.File); ok && isTerminal(f) {
		return f
	}
	return nil
}

// width returns the number of cells in a line of the terminal. It returns 0 if the output is not a
// terminal.
func (a *app) width() int {
	f := a.terminal()
	if f == nil {
		return 0
	}
	w, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return w
}

// colour reports whether the output may have colours. The output must be a terminal that can show
// colours, and the variable NO_COLOR (https://no-color.org) must not be set.
func (a *app) colour() bool {
	return a.terminal() != nil && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
