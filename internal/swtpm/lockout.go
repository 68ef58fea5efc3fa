package swtpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// PowerCut simulates a loss of power: the TPM ends without TPM2_Shutdown, and starts again.
func (t *TPM) PowerCut(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.proc.Stop(0)
	t.proc = nil
	return t.startLocked(ctx)
}

// FailedTries returns the TPM's number of failed authorisations (TPM_PT_LOCKOUT_COUNTER).
func (t *TPM) FailedTries() (uint32, error) {
	link, err := t.Open()
	if err != nil {
		return 0, err
	}
	defer link.Close()
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTLockoutCounter), PropertyCount: 1}.Execute(link)
	if err != nil {
		return 0, fmt.Errorf("swtpm: %w", err)
	}
	list, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil || len(list.TPMProperty) != 1 {
		return 0, fmt.Errorf("swtpm: reading the lockout counter: %w", err)
	}
	return list.TPMProperty[0].Value, nil
}

// EnterLockout tries wrong passwords for a key until the TPM is in dictionary attack lockout.
func (t *TPM) EnterLockout() error {
	link, err := t.Open()
	if err != nil {
		return err
	}
	defer link.Close()
	for range 100 {
		err := Guess(link, "wrong")
		if errors.Is(err, tpm2.TPMRCLockout) {
			return nil
		}
		if !errors.Is(err, tpm2.TPMRCAuthFail) {
			return fmt.Errorf("swtpm: guessing a password: %w", err)
		}
	}
	return errors.New("swtpm: the TPM is not in lockout after 100 wrong guesses")
}

// GuessedPassword is the right password of the key that Guess makes.
const GuessedPassword = "secret"

// Guess makes a key with dictionary attack protection and tries to use it with this password.
func Guess(link transport.TPM, password string) error {
	key, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHOwner,
		InSensitive:   tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: []byte(GuessedPassword)}}},
		InPublic: tpm2.New2B(tpm2.TPMTPublic{
			Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true},
			Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{Scheme: tpm2.TPMTKeyedHashScheme{
				Scheme: tpm2.TPMAlgHMAC, Details: tpm2.NewTPMUSchemeKeyedHash(tpm2.TPMAlgHMAC, &tpm2.TPMSSchemeHMAC{HashAlg: tpm2.TPMAlgSHA256}),
			}}),
		}),
	}.Execute(link)
	if err != nil {
		return err
	}
	defer func() { _, _ = tpm2.FlushContext{FlushHandle: key.ObjectHandle}.Execute(link) }()
	_, err = tpm2.Hmac{
		Handle: tpm2.AuthHandle{Handle: key.ObjectHandle, Name: key.Name, Auth: tpm2.PasswordAuth([]byte(password))},
		Buffer: tpm2.TPM2BMaxBuffer{Buffer: []byte("x")}, HashAlg: tpm2.TPMAlgSHA256,
	}.Execute(link)
	return err
}

// Command codes that go-tpm does not have, of commands that need platform authorisation.
const (
	ccHierarchyControl = 0x00000121
	ccChangeEPS        = 0x00000124
)

// ChangeEPS gives the TPM a new endorsement seed (Part 3, 24.4). The EK certificates in NV remain,
// although the TPM no longer has their keys.
func (t *TPM) ChangeEPS() error { return t.platform(ccChangeEPS, nil) }

// DisableEndorsement disables the endorsement hierarchy until the TPM restarts (Part 3, 24.2).
func (t *TPM) DisableEndorsement() error {
	return t.platform(ccHierarchyControl, []byte{0x40, 0, 0, 0x0B, 0})
}

// platform sends a command with platform authorisation.
func (t *TPM) platform(code uint32, params []byte) error {
	link, err := t.Open()
	if err != nil {
		return err
	}
	defer link.Close()
	be := binary.BigEndian
	cmd := be.AppendUint32([]byte{0x80, 0x02}, uint32(10+4+4+9+len(params)))
	cmd = be.AppendUint32(cmd, code)
	cmd = be.AppendUint32(cmd, uint32(tpm2.TPMRHPlatform))
	cmd = be.AppendUint32(cmd, 9) // an empty password
	cmd = be.AppendUint32(cmd, uint32(tpm2.TPMRSPW))
	cmd = append(cmd, 0, 0, 0, 0, 0)
	rsp, err := link.Send(append(cmd, params...))
	if err != nil {
		return fmt.Errorf("swtpm: command 0x%08X: %w", code, err)
	}
	if rc := tpm2.TPMRC(be.Uint32(rsp[6:])); rc != tpm2.TPMRCSuccess {
		return fmt.Errorf("swtpm: command 0x%08X: %w", code, rc)
	}
	return nil
}

// SetPassword sets a hierarchy's authorisation value. The current value must be empty.
func (t *TPM) SetPassword(hierarchy tpm2.TPMHandle, password string) error {
	link, err := t.Open()
	if err != nil {
		return err
	}
	defer link.Close()
	_, err = tpm2.HierarchyChangeAuth{
		AuthHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: tpm2.PasswordAuth(nil)},
		NewAuth:    tpm2.TPM2BAuth{Buffer: []byte(password)},
	}.Execute(link)
	if err != nil {
		return fmt.Errorf("swtpm: setting the password of 0x%08X: %w", hierarchy, err)
	}
	return nil
}
