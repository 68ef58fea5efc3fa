package ui

import "time"

// MakersPage is the data of the page "makers".
type MakersPage struct {
	Tabs         []Tab
	Roots, Links int // numbers of certificates in force, without the distrusted certificates
	Distrusted   int
	Operator     bool   // the account may change the trust store
	CRLs         string // a sentence about revocation lists
	Query        string
	Rows         []MakerRow
	Found        int
	First, Next  string // addresses of other pages; empty: none
	Here         string

	Text    string // the text in the form that checks certificates
	Problem string // what is wrong with Text or with the file
	Checked []CheckedCertificate
	More    int    // how many checked certificates are not shown
	Import  string // the operator's command
}

// MakerRow is a CA certificate of a TPM's maker.
type MakerRow struct {
	Maker, Name, SHA256, Source string
	Badge                       Badge
	Kind                        string // what the hub uses the certificate for, in words
	Until                       time.Time
	Expired                     bool
	Changed                     time.Time // when the operator last decided about the certificate; zero: never
}

// CheckedCertificate is what the hub says about a certificate that a person has sent, and that the
// hub does not store.
type CheckedCertificate struct {
	Title   string // the kind of certificate
	Badge   Badge
	Words   []string
	Facts   []Fact
	Command string // a command for the operator; empty: nothing to do
}

// EKListPage is the data of the page "eks".
type EKListPage struct {
	Tabs         []Tab
	Count        int
	Many         bool // the list has more than Count lines
	HubList      bool // the hub has an EK list of its own
	Query        string
	QueryProblem string
	Rows         []EKRow
	First, Next  string // addresses of other pages; empty: none
	CSV          string

	// The fields of the form for one line, as typed, and what is wrong with Value.
	Value, Note, ValueProblem string
	Required                  bool

	UploadProblem, ConfirmProblem string
}

// EKRow is a line of an EK list.
type EKRow struct {
	Value    string // hexadecimal
	Serial   bool   // Value is a certificate's serial number
	Note     string
	Required bool
}

// Short reports whether the note is short enough for the form that removes the line, which contains
// the note so that the removal can be undone.
func (r EKRow) Short() bool { return Weight(r.Note) <= 200 }
