package doctor

import "gangway/internal/finding"

// RuleOf returns the texts for a rule. In the fact, %s stands for the rows.
func RuleOf(rule string) finding.Finding {
	r := rules[rule]
	return finding.Finding{Fact: r.fact, Remedy: r.remedy}
}

// CountRules returns the number of rules that have texts.
func CountRules() int { return len(rules) }
