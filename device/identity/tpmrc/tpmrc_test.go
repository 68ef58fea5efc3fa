package tpmrc

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

func TestExplainsResponseCodes(t *testing.T) {
	t.Parallel()
	const session1 = 0x900 // TPM_RC_S + TPM_RC_1, for codes of format one
	for _, c := range []struct {
		rc   tpm2.TPMRC
		h    Hierarchy
		code string
	}{
		{tpm2.TPMRCLockout, None, CodeLockout},
		{tpm2.TPMRCLockout, Endorsement, CodeLockout},
		{tpm2.TPMRCBadAuth | session1, Endorsement, CodeEndorsementAuth},
		{tpm2.TPMRCAuthFail | session1, Owner, CodeOwnerAuth},
		{tpm2.TPMRCBadAuth | session1, Lockout, CodeLockoutAuth},
		{tpm2.TPMRCBadAuth | session1, None, CodeOther},
		{tpm2.TPMRCHierarchy | 0x100, Endorsement, CodeEndorsementDisabled},
		{tpm2.TPMRCHierarchy | 0x100, Owner, CodeOwnerDisabled},
		{tpm2.TPMRCFailure, Endorsement, CodeFailure},
		{tpm2.TPMRCInitialize, None, CodeNotStarted},
		{tpm2.TPMRCUpgrade, None, CodeUpgrade},
		{tpm2.TPMRCRetry, None, CodeBusy},
		{tpm2.TPMRCObjectMemory, Endorsement, CodeFull},
		{tpm2.TPMRCNVRate, None, CodeNV},
		{tpm2.TPMRCNVSpace, Owner, CodeNV},
		{tpm2.TPMRCCommandCode, None, CodeUnsupported},
		{tpm2.TPMRCCurve | 0x2C0, Endorsement, CodeUnsupported},
		{0x000B0000 | tpm2.TPMRCCommandCode, None, CodeUnsupported}, // the kernel's code for a command that the TPM does not have
		{tpm2.TPMRCLocality, None, CodeOther},
	} {
		err := Explain(fmt.Errorf("TPM2_X: %w", c.rc), c.h)
		var cause *Cause
		if !errors.As(err, &cause) || cause.Code != c.code {
			t.Errorf("%v of %q: %v, %s was expected", c.rc, c.h, err, c.code)
			continue
		}
		for _, sentence := range []string{cause.Reason, cause.Remedy} {
			if !strings.HasSuffix(sentence, ".") || strings.Contains(sentence, "TPM_RC") {
				t.Errorf("%s: %q is no sentence for a person", c.code, sentence)
			}
		}
		if !errors.Is(err, c.rc) || !strings.Contains(err.Error(), "TPM2_X") {
			t.Errorf("%s: what the TPM answered is lost: %v", c.code, err)
		}
		if again := Explain(fmt.Errorf("wrapped: %w", err), Owner); !errors.As(again, &cause) || cause.Code != c.code {
			t.Errorf("explained twice: %v", again)
		}
	}
	altered := Explain(errors.New("Unseal: incorrect authorization HMAC"), Owner)
	if cause := (*Cause)(nil); !errors.Is(altered, ErrAltered) || !errors.As(altered, &cause) || cause.Code != CodeAltered {
		t.Errorf("%v; want the code %s", altered, CodeAltered)
	}
	if plain := errors.New("no TPM"); Explain(plain, Owner) != plain || Explain(nil, Owner) != nil {
		t.Error("an error that is not the TPM's is changed")
	}
	if err := ExplainWithPassword(tpm2.TPMRCBadAuth); !strings.Contains(err.Error(), CodeEndorsementAuthBad) {
		t.Errorf("a wrong password: %v", err)
	}
}
