package identity

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// ActivateCredential returns the secret of a credential that the hub made for this TPM's EK and the
// name of its IAK (TPM2_MakeCredential, Part 1, 24). `idObject` is a TPM2B_ID_OBJECT and
// `encryptedSecret` a TPM2B_ENCRYPTED_SECRET, both without the size field.
//
// The TPM encrypts the secret in its response (AES-128-CFB, in a session salted to the EK), so a
// probe on the TPM's bus cannot read it. ActivateCredential checks the response's HMAC, and then
// flushes the EK and the IAK from the TPM.
//
// If the credential was made for another EK or IAK, or was altered, the error is ErrOtherTPM.
func (i *Identity) ActivateCredential(idObject, encryptedSecret []byte) ([]byte, error) {
	const most = 1024 // bytes; an RSA 4096 EK needs 512
	if len(idObject) == 0 || len(idObject) > most || len(encryptedSecret) == 0 || len(encryptedSecret) > most {
		return nil, fmt.Errorf("identity: the credential's two parts have %d and %d bytes; each must have 1 to %d", len(idObject), len(encryptedSecret), most)
	}
	end, err := i.ring.begin(context.Background(), OpActivate)
	if err != nil {
		return nil, err
	}
	defer end()
	secret, err := i.activate(idObject, encryptedSecret)
	if err != nil {
		return nil, i.ring.explain(fmt.Errorf("identity: opening the credential: %w", err))
	}
	// Ignore errors of the release: Close flushes any keys that are still loaded.
	i.ring.t.operation = OpRelease
	i.releaseAttestation()
	return secret, nil
}

func (i *Identity) activate(idObject, encryptedSecret []byte) ([]byte, error) {
	r := i.ring
	var ekPublic *tpm2.TPMTPublic
	err := guarded(func() (err error) { ekPublic, err = tpm2.Unmarshal[tpm2.TPMTPublic](i.EK.Raw); return err })
	if err != nil {
		return nil, err
	}
	var secret []byte
	refused := false
	err = r.attempt([]*key{i.ek, i.iak}, func() error {
		ekAuth, err := r.ekSession(i.EK)
		if err != nil {
			return err
		}
		// One session has two purposes: it satisfies the third branch of the IAK's policy,
		// and its key, salted to the EK, encrypts the response.
		session := r.policy(i.IAK.NameAlg, tpm2.TPMCCActivateCredential, i.iak.template.PolicyBranches,
			tpm2.Salted(tpm2.TPMHandle(i.ek.handle), *ekPublic),
			tpm2.AESEncryption(128, tpm2.EncryptOut))
		rsp, err := run(r.t, tpm2.ActivateCredential{
			ActivateHandle: i.iak.with(session),
			KeyHandle:      i.ek.with(ekAuth),
			CredentialBlob: tpm2.TPM2BIDObject{Buffer: idObject},
			Secret:         tpm2.TPM2BEncryptedSecret{Buffer: encryptedSecret},
		})
		refused = err != nil && r.t.refused == ccActivateCredential && isRefusedCredential(err)
		if err != nil {
			return err
		}
		if len(rsp.CertInfo.Buffer) == 0 {
			return errors.New("TPM2_ActivateCredential: the response has no secret")
		}
		secret = rsp.CertInfo.Buffer
		return nil
	})
	if refused {
		return nil, fmt.Errorf("%w: %w", ErrOtherTPM, err)
	}
	return secret, err
}

// isRefusedCredential reports whether the TPM refused the credential itself: the credential's HMAC
// is wrong, or the secret was not encrypted to the EK (Part 3, 12.5).
//
// In the second case, libtpms with an RSA EK answers TPM_RC_FAILURE, which is also the answer of a
// TPM in failure mode to any command. The caller can distinguish the two by the field t.refused,
// the last command that the TPM refused. If the credential was refused, that command is
// TPM2_ActivateCredential. A TPM in failure mode, by contrast, also refuses the later commands that
// flush the sessions.
func isRefusedCredential(err error) bool {
	var rc tpm2.TPMRC
	if !errors.As(err, &rc) {
		return false
	}
	for _, code := range []tpm2.TPMRC{
		tpm2.TPMRCIntegrity, tpm2.TPMRCValue, tpm2.TPMRCSize, tpm2.TPMRCInsufficient,
		tpm2.TPMRCECCPoint, tpm2.TPMRCBinding, tpm2.TPMRCFailure,
	} {
		if rc.Is(code) {
			return true
		}
	}
	return false
}
