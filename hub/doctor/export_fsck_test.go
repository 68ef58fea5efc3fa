package doctor

import "gangway/internal/finding"

// RuleOf returns the texts about a consistency rule of the database. In the Fact of the result, %s
// stands for the rows that break the rule.
func RuleOf(rule string) finding.Finding {
	r := rules[rule]
	return finding.Finding{Fact: r.fact, Remedy: r.remedy}
}

// CountRules returns the number of rules that have texts.
func CountRules() int { return len(rules) }
