package seal

import (
	"bytes"
	"testing"
)

// The authValue of a PIN has no zero byte, because the TPM or go-tpm would cut the authValue there.
func TestAuthValueOfAPINHasNoZeros(t *testing.T) {
	t.Parallel()
	for n := range byte(40) { // of 32 random bytes, one is zero in every eighth case
		auth, err := authOf("246810", []byte{n})
		if err != nil || len(auth) != 32 || bytes.IndexByte(auth, 0) >= 0 {
			t.Fatalf("salt %d: %x, %v", n, auth, err)
		}
	}
}
