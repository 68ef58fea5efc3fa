package doctor

import "gangway/internal/finding"

// RuleOf returns the fact and the remedy that Fsck reports if rows of the database break the
// consistency rule `rule`. In the fact, Fsck replaces %s by the names of these rows.
func RuleOf(rule string) finding.Finding {
	r := rules[rule]
	return finding.Finding{Fact: r.fact, Remedy: r.remedy}
}

// CountRules returns the number of rules about which Fsck has a fact and a remedy.
func CountRules() int { return len(rules) }
