package ui

import (
	"gangway/hub/store"
)

// TokensPage is the data of the page "tokens", the list of join tokens.
type TokensPage struct {
	Tabs []Tab
	Rows []TokenRow
	// Soon is the number of join tokens that expire soon, and SoonPath the address of their list.
	// OnlySoon is true if this page is that list, and More if more join tokens expire soon than it
	// shows.
	Soon     int
	SoonPath string
	OnlySoon bool
	More     bool
	// First and Next are the addresses of the first and the next page of the list, or empty if this
	// page does not link to them.
	First, Next string
	Empty       bool     // the account has no join token
	Commands    []string // commands for the first onboarding
	Image       string   // the page on which the hub builds images; empty: the hub builds none
}

// TokenRow is a join token, with its state in words.
type TokenRow struct {
	store.JoinToken
	State   Badge
	Path    string
	Accepts string // what the token accepts besides proofs of a TPM; empty: nothing
}

// Name returns the token's nick or, if it has none, its id.
func (t TokenRow) Name() string {
	if t.Nick == "" {
		return t.ID
	}
	return Visible(t.Nick)
}

// TokenForm is the form for a new join token: the typed values, and what is wrong with them.
type TokenForm struct {
	Tabs                                                  []Tab
	Nick, MaxUses, Expires, Meta                          string
	WithoutTPM, ForPantacor                               bool
	NickProblem, UsesProblem, ExpiresProblem, MetaProblem string
	Problem                                               string // a problem that is not about one field
	PolicyRefuses                                         bool   // the policy refuses devices without a TPM
}

// Wrong reports whether any field has a problem.
func (f TokenForm) Wrong() bool {
	return f.NickProblem+f.UsesProblem+f.ExpiresProblem+f.MetaProblem+f.Problem != ""
}

// TokenMade is the data of the page "tokenmade", the only page that has a join token's secret.
type TokenMade struct {
	Tabs         []Tab
	Token        TokenRow
	Secret, File string
	Onboard      string // commands that onboard a device
	Build        string
	Image        string // the page on which the hub builds images; empty: the hub builds none
}

// TokenPage is the data of the page "token".
type TokenPage struct {
	Tabs           []Tab
	Token          TokenRow
	Devices        string // the number of devices that joined with the token, in words
	DevicesPath    string
	Meta           []MetaRow
	MoreMeta       int    // number of metadata keys that are not shown
	Confirm        string // text that the person must type to disable the token
	ConfirmProblem string
}

// ImagePage is the data of the page "image": the form for an installer image.
type ImagePage struct {
	TokenForm
	Disk, Escrow, Network, RevisionKey         string // as typed
	Claim                                      bool   // as chosen: the image has no join token
	DiskProblem, EscrowProblem, NetworkProblem string
	RevisionKeyProblem                         string
	Missing                                    string // why the hub cannot build images; empty: it can
	Limit, Size                                string // bounds of a build, in words
	StatePath                                  string // address of the template "building", which shows the progress of the build
	Building                                   Building
}

// Wrong reports whether any typed value has a problem.
func (p ImagePage) Wrong() bool {
	return p.TokenForm.Wrong() || p.DiskProblem+p.EscrowProblem+p.NetworkProblem+p.RevisionKeyProblem != ""
}

// Building is the progress of a running image build, or the result of the last image build.
type Building struct {
	Known      bool // the account has a running build, or a result of its last build
	Running    bool
	Step       string
	For        string // how long the build has run, in words
	Sent, Size int    // KiB; Size is 0 until the image is built
	SizeWords  string
	Problem    string // why the build failed
	TokenPath  string
}
