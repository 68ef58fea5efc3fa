package wire

// WaitingStatus is Waiting.Status.
const WaitingStatus = "waiting"

// Waiting is the body of a 202 answer to a request: the evidence holds as far
// as it goes, and a person must decide the rest. The device sends the same
// request again after RetryAfter.
type Waiting struct {
	Status     string `json:"status"` // WaitingStatus
	Code       string `json:"error"`  // of the first question
	Reason     string `json:"msg"`
	Hint       string `json:"hint"`
	DeviceID   string `json:"device-id"`   // for 'gangway device approve'; the device gets another id when it is let in
	EK         string `json:"ek-sha256"`   // of the EK's SubjectPublicKeyInfo, hexadecimal: what the person compares
	RetryAfter int    `json:"retry-after"` // seconds
}
