package sig

import "fmt"

// Code is the stable code of a refusal.
type Code string

// The codes.
const (
	CodeUnsigned  Code = "revision-unsigned"  // there is no signature
	CodeSignature Code = "revision-signature" // no signature verifies with a pinned key
	CodePart      Code = "revision-part"      // the signature leaves out a member of the state
	CodeSequence  Code = "revision-sequence"  // the sequence number is missing or not valid
	CodeOld       Code = "revision-old"       // the sequence number is not larger than the one that the device has accepted
	CodeKeys      Code = "revision-keys"      // the new keys cannot be used
	CodeDevice    Code = "revision-device"    // the owner signed the revision for other devices
)

const howToSign = "Sign the whole state: pvr sig --key KEY --x5c no add --raw owner --include '**' --exclude '_sigs/owner.json'. Commit, and post again."

var remedies = map[Code]string{
	CodeUnsigned:  howToSign,
	CodeSignature: "Sign with the key that the device's image pins. If this key is lost, install the machine again, with an image that pins a new key. If you did not post this revision, the hub is not under your control.",
	CodePart:      howToSign,
	CodeSequence:  `Add the file ` + SequencePath + ` with {"sequence": N}, where N grows with each revision. Then sign again.`,
	CodeOld:       "To go back to older content, post it with a larger sequence number, and sign it again. If you did not post this revision, the hub is not under your control.",
	CodeDevice:    `Add the device's id to "devices" in ` + SequencePath + ", or remove that list. Then sign again. If you did not post this revision to this device, the hub is not under your control.",
	CodeKeys:      "Write each key as a PEM public key or certificate (P-256, P-384, or RSA with 2048 to 8192 bits). Then sign again with the old key.",
}

// Refusal is the reason why a revision is not accepted.
type Refusal struct {
	Code   Code
	Reason string // a sentence
	Remedy string // one or more sentences
}

func (r *Refusal) Error() string { return fmt.Sprintf("%s %s (%s)", r.Reason, r.Remedy, r.Code) }

// refuse makes a Refusal with the code's remedy.
func refuse(code Code, format string, args ...any) *Refusal {
	return &Refusal{code, fmt.Sprintf(format, args...), remedies[code]}
}

// OtherDevice returns the refusal of a revision that the owner signed for other devices.
func OtherDevice(id string) *Refusal {
	return refuse(CodeDevice, "The owner signed this revision for other devices, and not for %s.", id)
}

// Old returns the refusal of a revision whose sequence number is too small, or was used before.
func Old(sequence, accepted uint64) *Refusal {
	if sequence == accepted {
		return refuse(CodeOld, "This device has already accepted another revision with the sequence number %d.", sequence)
	}
	return refuse(CodeOld, "The revision has the sequence number %d, and this device has already accepted number %d.", sequence, accepted)
}
