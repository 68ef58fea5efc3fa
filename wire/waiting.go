package wire

// WaitingStatus is the value of Waiting.Status.
const WaitingStatus = "waiting"

// Waiting is the body of a 202 response to a request: no check refused the evidence, but the
// evidence raises questions that a person must decide, such as a missing EK certificate. The device
// sends the same request again after RetryAfter.
type Waiting struct {
	Status     string `json:"status"` // WaitingStatus
	Code       string `json:"error"`  // stable code of the first question that is not decided yet
	Reason     string `json:"msg"`
	Hint       string `json:"hint"`
	DeviceID   string `json:"device-id"`   // the id for 'gangway device approve'; after approval, the device gets another id
	EK         string `json:"ek-sha256"`   // SHA-256 of the EK's SubjectPublicKeyInfo, hexadecimal; the machine displays it, and its owner compares it with the hub's page
	RetryAfter int    `json:"retry-after"` // seconds
}
