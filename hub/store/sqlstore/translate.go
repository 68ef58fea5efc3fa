package sqlstore

import (
	"fmt"
	"strings"
)

// postgresText translates the text of a statement from SQLite's SQL to PostgreSQL's. It knows only
// these differences:
//
//   - Parameters: ? and ?2 become $1 and $2.
//   - Hints for SQLite's planner are removed: INDEXED BY x, CROSS in CROSS JOIN, and the sign +
//     before a column after AND.
//   - Blobs: x'00' becomes a bytea.
//   - max and min with two arguments become greatest and least.
func postgresText(sql string) (string, error) {
	tokens := split(sql)
	var out strings.Builder
	number, numbered := 0, false
	for i := 0; i < len(tokens); i++ {
		t := tokens[i]
		switch word := strings.ToUpper(t); {
		case t == "?":
			number++
			fmt.Fprintf(&out, "$%d", number)
		case strings.HasPrefix(t, "?"):
			numbered = true
			out.WriteString("$" + t[1:])
		case word == "INDEXED" && i+4 < len(tokens) && strings.ToUpper(tokens[i+2]) == "BY":
			i += 4 // there is exactly one space between the words
		case word == "CROSS" && i+2 < len(tokens) && strings.ToUpper(tokens[i+2]) == "JOIN":
			i++
		case t == "+" && i > 1 && strings.ToUpper(tokens[i-2]) == "AND":
		case word == "X" && i+1 < len(tokens) && strings.HasPrefix(tokens[i+1], "'"):
			out.WriteString(`'\x` + tokens[i+1][1:] + `::bytea`)
			i++
		case (word == "MAX" || word == "MIN") && severalArguments(tokens[i+1:]):
			out.WriteString(map[string]string{"MAX": "greatest", "MIN": "least"}[word])
		default:
			out.WriteString(t)
		}
	}
	if number > 0 && numbered {
		return "", fmt.Errorf("the statement has parameters both with and without a number")
	}
	return out.String(), nil
}

// sharable returns an error if a statement has words that PostgreSQL does not know, or that have
// another meaning in PostgreSQL. Register such a statement with the function `both`, with a text
// for each engine.
func sharable(sql string) error {
	tokens := split(sql)
	for i, t := range tokens {
		word := strings.ToUpper(t)
		switch {
		case onlySQLite[word]:
			return fmt.Errorf("PostgreSQL does not support %s in the way that SQLite does", t)
		case word == "OR" && i+2 < len(tokens) && (strings.ToUpper(tokens[i+2]) == "IGNORE" || strings.ToUpper(tokens[i+2]) == "REPLACE"):
			return fmt.Errorf("PostgreSQL does not know OR %s", tokens[i+2])
		}
	}
	return nil
}

var onlySQLite = map[string]bool{
	"IIF": true, "JSON_EACH": true, "JSON_EXTRACT": true, "INSTR": true, "GLOB": true, "PRINTF": true, "ZEROBLOB": true,
	"RANDOMBLOB": true, "NOCASE": true, "LIKE": true, "PRAGMA": true, "HEX": true, "IFNULL": true,
}

// The function `split` splits a statement into words, literals, parameters and other characters.
// Joined together, the tokens are the statement again.
func split(sql string) (tokens []string) {
	for i := 0; i < len(sql); {
		end := i + 1
		switch {
		case sql[i] == '\'':
			end = i + 1 + strings.IndexByte(sql[i+1:], '\'') + 1
		case sql[i] == '?':
			end += count(sql[end:], func(c byte) bool { return '0' <= c && c <= '9' })
		case inWord(sql[i]):
			end += count(sql[end:], inWord)
		}
		tokens = append(tokens, sql[i:end])
		i = end
	}
	return tokens
}

func inWord(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_'
}

// count returns how many bytes at the start of the text meet the condition `is`.
func count(text string, is func(byte) bool) int {
	n := 0
	for n < len(text) && is(text[n]) {
		n++
	}
	return n
}

// severalArguments reports whether the tokens begin with a list of several arguments in
// parentheses.
func severalArguments(tokens []string) bool {
	depth := 0
	for i, t := range tokens {
		switch {
		case i == 0 && t != "(":
			return false
		case t == "(":
			depth++
		case t == ")":
			if depth--; depth == 0 {
				return false
			}
		case t == "," && depth == 1:
			return true
		}
	}
	return false
}
