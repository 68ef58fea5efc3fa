package ui

// TrustChangePage is the data of the page "trustchange", on which the operator adds makers'
// certificates or decides about one certificate. A change is made only after its preview.
type TrustChangePage struct {
	Version string // of the trust store that the preview is about
	Problem string // about the text or the file

	// The form for new certificates.
	Adding bool
	Text   string
	From   string // where the text comes from: a file's name
	AsRoot bool
	Added  []CheckedCertificate // the certificates that the change adds

	// One certificate of the trust store.
	One    *CheckedCertificate
	SHA256 string
	Acts   []TrustAct // what the operator may do with it

	Chosen  string // the act that is previewed: the name of a TrustAct or, for new certificates, "import"
	Effect  *TrustEffect
	Confirm string // the button
	Lost    string // what the act does, in sentences

	PasswordProblem string
}

// TrustAct is an act on a certificate of the trust store.
type TrustAct struct{ Name, Label string }

// TrustEffect is what a change of the trust store does to devices and machines of all owners. It
// has numbers only, because the operator may not see an owner's devices.
type TrustEffect struct {
	Devices, AllDevices int // number of examined devices, and of all devices
	Waiting             int // number of examined machines that wait or that their owner denied
	MoreWaiting         bool
	Through             int // devices whose chain now has one of the certificates
	Lose, Gain          int // devices that have a chain only now, or only then
	WaitingGain         int // machines that have a chain only then
	DeniedGain          int // of WaitingGain, those that their owner denied
	WaitingLose         int
}
