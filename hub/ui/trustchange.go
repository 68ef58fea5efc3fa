package ui

// TrustChangePage is the data of the page "trustchange". On this page the operator adds makers'
// certificates, or decides about one certificate. The hub makes a change only after its preview.
type TrustChangePage struct {
	Version string // version of the trust store that the preview is about
	Problem string // what is wrong with the text or the file

	// The fields of the form for new certificates.
	Adding bool
	Text   string
	From   string // where the text comes from: a file's name
	AsRoot bool
	Added  []CheckedCertificate // the certificates that the change adds

	// The fields about one certificate of the trust store.
	One    *CheckedCertificate
	SHA256 string
	Acts   []TrustAct // what the operator may do with the certificate

	Chosen  string // the act that is previewed: the name of a TrustAct or, for new certificates, "import"
	Effect  *TrustEffect
	Confirm string // text of the button
	Lost    string // the effect of the act, in sentences

	PasswordProblem string
}

// TrustAct is an action that the operator can choose for a certificate of the trust store.
type TrustAct struct{ Name, Label string }

// TrustEffect says how a change of the trust store would affect the devices and waiting machines of
// all owners. It contains only numbers, because the operator may not see an owner's devices.
type TrustEffect struct {
	Devices, AllDevices int // number of examined devices, and of all devices
	Waiting             int // number of examined machines that wait or that their owner denied
	MoreWaiting         bool
	Through             int // devices with a present chain that has one of the certificates
	Lose, Gain          int // devices that have a chain only before the change, or only after it
	WaitingGain         int // machines that have a chain only after the change
	DeniedGain          int // number of machines in WaitingGain that their owner denied
	WaitingLose         int
}
