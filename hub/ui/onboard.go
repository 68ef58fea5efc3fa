package ui

import (
	"gangway/hub/store"
)

// TokensPage is the data of the page "tokens", the list of join tokens.
type TokensPage struct {
	Tabs []Tab
	Rows []TokenRow
	// Soon is how many join tokens expire soon; SoonPath is their list. OnlySoon says that the page
	// is that list, and More that it leaves some out.
	Soon     int
	SoonPath string
	OnlySoon bool
	More     bool
	// First and Next are the addresses of other pages of the list; empty: there is none.
	First, Next string
	Empty       bool     // the account has no join token
	Commands    []string // of the first onboarding
	Image       string   // where the hub builds images; empty: nowhere
}

// TokenRow is a join token, with its state in words.
type TokenRow struct {
	store.JoinToken
	State   Badge
	Path    string
	Accepts string // what it accepts in addition to proofs of a TPM; empty: nothing
}

// Name returns the nick, or the id of a join token without one.
func (t TokenRow) Name() string {
	if t.Nick == "" {
		return t.ID
	}
	return Visible(t.Nick)
}

// TokenForm is the form for a new join token: what was typed, and what is wrong with it.
type TokenForm struct {
	Tabs                                                  []Tab
	Nick, MaxUses, Expires, Meta                          string
	WithoutTPM, ForPantacor                               bool
	NickProblem, UsesProblem, ExpiresProblem, MetaProblem string
	Problem                                               string // about no field
	PolicyRefuses                                         bool   // the policy refuses devices without a TPM
}

// Wrong reports whether something is wrong with what was typed.
func (f TokenForm) Wrong() bool {
	return f.NickProblem+f.UsesProblem+f.ExpiresProblem+f.MetaProblem+f.Problem != ""
}

// TokenMade is the data of the page "tokenmade", the only page that has a join token's secret.
type TokenMade struct {
	Tabs         []Tab
	Token        TokenRow
	Secret, File string
	Onboard      string // commands
	Build        string
	Image        string // where the hub builds images; empty: nowhere
}

// TokenPage is the data of the page "token".
type TokenPage struct {
	Tabs           []Tab
	Token          TokenRow
	Devices        string // how many devices joined with it, in words
	DevicesPath    string
	Meta           []MetaRow
	MoreMeta       int    // members that are not shown
	Confirm        string // what must be typed to disable it
	ConfirmProblem string
}
