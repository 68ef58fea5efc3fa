package identity

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"gangway/internal/swtpm"

	"github.com/google/go-tpm/tpm2"
)

func TestReplyOpenedByAnotherTPMFails(t *testing.T) {
	t.Parallel()
	for _, kind := range []swtpm.EK{swtpm.RSA2048, swtpm.P384} {
		mine, theirs := startTPM(t, kind), newTPMOf(t, kind)
		a, b := load(t, open(t, mine), Options{}), load(t, open(t, theirs), Options{})
		if bytes.Equal(a.EK.Raw, b.EK.Raw) || bytes.Equal(a.IAK.Raw, b.IAK.Raw) {
			t.Fatal("two TPMs have the same keys")
		}
		secret := newSecret()
		for name, names := range map[string]struct{ ek, iak []byte }{
			"another EK and IAK": {b.EK.Raw, b.IAKName},
			"another EK":         {b.EK.Raw, a.IAKName},
			"another IAK":        {a.EK.Raw, b.IAKName},
			"the IDevID key":     {a.EK.Raw, a.IDevIDName},
		} {
			blob, enc := credential(t, names.ek, names.iak, secret)
			if got, err := a.ActivateCredential(blob, enc); !errors.Is(err, ErrOtherTPM) || got != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		// After the TPM has refused wrong credentials, the identity still opens a correct one.
		blob, enc := credential(t, a.EK.Raw, a.IAKName, secret)
		if got, err := a.ActivateCredential(blob, enc); err != nil || !bytes.Equal(got, secret) {
			t.Error(err)
		}
		a.Close()
		assertEmpty(t, mine)
	}
}

func TestAlteredCredentialFails(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.P384)
	id := load(t, open(t, s), Options{})
	blob, enc := credential(t, id.EK.Raw, id.IAKName, newSecret())
	for i := 0; i < len(blob); i += 9 {
		b := bytes.Clone(blob)
		b[i] ^= 1
		if _, err := id.ActivateCredential(b, enc); err == nil {
			t.Errorf("opened with byte %d of the ID object altered", i)
		}
	}
	for i := 0; i < len(enc); i += 9 {
		b := bytes.Clone(enc)
		b[i] ^= 1
		if _, err := id.ActivateCredential(blob, b); err == nil {
			t.Errorf("opened with byte %d of the secret altered", i)
		}
	}
	for _, n := range []int{0, 1, 2, len(blob) - 1, 1025} {
		if _, err := id.ActivateCredential(make([]byte, n), enc); err == nil {
			t.Errorf("opened with an ID object of %d zeros", n)
		}
	}
	id.Close()
	assertEmpty(t, s)
}

// TestParameterEncryptionHidesTheSecret: with parameter encryption, the bytes on the TPM's bus do
// not contain the credential's secret. Without parameter encryption, the bytes contain the secret.
func TestParameterEncryptionHidesTheSecret(t *testing.T) {
	t.Parallel()
	for _, kind := range []swtpm.EK{swtpm.RSA2048, swtpm.P384} {
		s := startTPM(t, kind)
		tpm := open(t, s)
		var bus []byte
		encrypted := false
		salted := make(map[uint32]uint32) // key: session handle; value: handle of the TPM key to which the session's salt is encrypted
		spyOn(tpm).after = func(code uint32, cmd, rsp []byte) ([]byte, error) {
			bus = append(append(bus, cmd...), rsp...)
			if code == ccStartAuthSession {
				salted[binary.BigEndian.Uint32(rsp[10:])] = binary.BigEndian.Uint32(cmd[10:])
			}
			if code == ccActivateCredential {
				// A TPMS_AUTH_COMMAND consists of handle, nonce, attributes (bit 6: encrypt) and
				// HMAC.
				auth := cmd[10+8+4:]
				nonce := int(auth[4])<<8 | int(auth[5])
				key := binary.BigEndian.Uint32(cmd[14:])
				encrypted = auth[6+nonce]&(1<<6) != 0 && salted[binary.BigEndian.Uint32(auth)] == key
			}
			return rsp, nil
		}
		id := load(t, tpm, Options{})
		secret := newSecret()
		blob, enc := credential(t, id.EK.Raw, id.IAKName, secret)
		got, err := id.ActivateCredential(blob, enc)
		if err != nil || !bytes.Equal(got, secret) {
			t.Fatal(err)
		}
		if !encrypted {
			t.Error("the response is not encrypted, or its key not salted to the EK")
		}
		if len(bus) < 1000 || !bytes.Contains(bus, blob) {
			t.Fatal("the bus was not seen")
		}
		for at := 0; at+8 <= len(secret); at += 8 {
			if bytes.Contains(bus, secret[at:at+8]) {
				t.Fatal("the secret is on the bus")
			}
		}
	}
}

// TestRejectsAResponseAlteredOnTheBus: if somebody alters a response on the TPM's bus, the check
// of the response's HMAC fails.
func TestRejectsAResponseAlteredOnTheBus(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.P384)
	tpm := open(t, s)
	at := 0
	size := 0
	spyOn(tpm).after = func(code uint32, _, rsp []byte) ([]byte, error) {
		if code == ccActivateCredential && rsp[6]|rsp[7]|rsp[8]|rsp[9] == 0 && at > 0 {
			size = len(rsp)
			if at < len(rsp) {
				rsp = bytes.Clone(rsp)
				rsp[at] ^= 0x10
			}
		}
		return rsp, nil
	}
	id := load(t, tpm, Options{})
	secret := newSecret()
	blob, enc := credential(t, id.EK.Raw, id.IAKName, secret)
	if got, err := id.ActivateCredential(blob, enc); err != nil || !bytes.Equal(got, secret) {
		t.Fatal(err)
	}
	for at = 10; size == 0 || at < size; at += 5 {
		if _, err := id.ActivateCredential(blob, enc); err == nil {
			t.Errorf("accepted with byte %d altered", at)
		}
	}
	id.Close()
	assertEmpty(t, s)
}

// TestEndorsementAuth: if the endorsement hierarchy has a password, all operations work, and the
// password is not sent to the TPM.
func TestEndorsementAuth(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	admin := open(t, s)
	for _, password := range []string{"hunter2 and more", "with\x00zero"} {
		end, err := admin.begin(t.Context(), OpFindEK)
		if err != nil {
			t.Fatal(err)
		}
		_, err = run(admin, tpm2.HierarchyChangeAuth{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
			NewAuth:    tpm2.TPM2BAuth{Buffer: []byte(password)},
		})
		end()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Load(t.Context(), open(t, s), Options{}); !errors.Is(err, tpm2.TPMRCAuthFail) && !errors.Is(err, tpm2.TPMRCBadAuth) {
			t.Errorf("without the password: %v", err)
		}
		tpm := open(t, s)
		var bus []byte
		spyOn(tpm).before = func(_ uint32, cmd []byte) ([]byte, error) { bus = append(bus, cmd...); return nil, nil }
		o := Options{EndorsementAuth: append([]byte(password), 0, 0)} // the TPM ignores trailing zeros of a password
		id := load(t, tpm, o)
		if _, err := id.Request(info()); err != nil {
			t.Error(err)
		}
		secret := newSecret()
		blob, enc := credential(t, id.EK.Raw, id.IAKName, secret)
		if got, err := id.ActivateCredential(blob, enc); err != nil || !bytes.Equal(got, secret) {
			t.Error(err)
		}
		if password[4] != 0 && bytes.Contains(bus, []byte(password)) {
			t.Error("the password was sent")
		}
		id.Close()
		assertEmpty(t, s)

		end, err = admin.begin(t.Context(), OpFindEK)
		if err != nil {
			t.Fatal(err)
		}
		_, err = run(admin, tpm2.HierarchyChangeAuth{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth([]byte(password))},
		})
		end()
		if err != nil {
			t.Fatal(err)
		}
	}
}
