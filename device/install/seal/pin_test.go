package seal

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/sha256"
	"testing"
)

// The authValue of a PIN has no zero byte, because the TPM or go-tpm would cut the authValue there.
func TestAuthValueOfAPINHasNoZeros(t *testing.T) {
	t.Parallel()
	const pin = "246810"
	salt := []byte{25} // for this salt, the derived key has a zero byte
	raw, err := pbkdf2.Key(sha256.New, pin, salt, pinIterations, 24)
	if err != nil || bytes.IndexByte(raw, 0) < 0 {
		t.Fatalf("the derived key is %x, %v; the test needs a key with a zero byte: choose another salt", raw, err)
	}
	if auth, err := authOf(pin, salt); err != nil || len(auth) != 32 || bytes.IndexByte(auth, 0) >= 0 {
		t.Errorf("the authValue is %x, %v; want 32 bytes without a zero byte", auth, err)
	}
}
