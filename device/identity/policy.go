package identity

import (
	"bytes"
	"errors"

	"gangway/tcg"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// nonceSize is the size of session nonces, in bytes.
const nonceSize = 16

// The method `endorsement` returns the endorsement hierarchy with its authorisation. On nearly all
// machines the authorisation value is empty. If it is not empty, an HMAC proves that this program
// knows the value, and the value itself is not sent to the TPM.
func (r *ring) endorsement() tpm2.AuthHandle {
	auth := bytes.TrimRight(r.endAuth, "\x00") // as the TPM stores it (Part 1, 19.6.5)
	session := tpm2.PasswordAuth(auth)
	// go-tpm truncates an HMAC key at its first zero byte. So a value with a zero byte must be sent
	// as a password instead.
	if len(auth) > 0 && !bytes.Contains(auth, []byte{0}) {
		session = tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, tpm2.Auth(auth))
	}
	return tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Name: tpm2.HandleName(tpm2.TPMRHEndorsement), Auth: session}
}

// The method `policy` returns a policy session for one command. To satisfy the policy, the session
// runs PolicySecret(endorsement), then PolicyCommandCode(code) if `code` is not zero, and then
// PolicyOR(branches) if `branches` is not nil.
func (r *ring) policy(alg tcg.AlgID, code tpm2.TPMCC, branches [][]byte, options ...tpm2.AuthOption) tpm2.Session {
	callback := func(_ transport.TPM, session tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
		_, err := run(r.t, tpm2.PolicySecret{AuthHandle: r.endorsement(), PolicySession: session})
		if err != nil {
			return err
		}
		if code != 0 {
			if _, err := run(r.t, tpm2.PolicyCommandCode{PolicySession: session, Code: code}); err != nil {
				return err
			}
		}
		if branches != nil {
			list := tpm2.TPMLDigest{}
			for _, b := range branches {
				list.Digests = append(list.Digests, tpm2.TPM2BDigest{Buffer: b})
			}
			if _, err := run(r.t, tpm2.PolicyOr{PolicySession: session, PHashList: list}); err != nil {
				return err
			}
		}
		return nil
	}
	return tpm2.Policy(tpm2.TPMIAlgHash(alg), nonceSize, callback, options...)
}

// The method `user` returns a session that authorises a key for the USER role. The session
// satisfies the branch of the key's policy that requires only the authorisation of the endorsement
// hierarchy (DevID 7.3.6.1).
//
// The key's own empty password would also work, and would take three commands fewer. But the
// templates do not set noDA, so dictionary attack protection applies to that password: once it has
// been used, the TPM counts the next power loss as a failure (Part 1, 19.8.6), and after a few
// failures it refuses the key. If the key is authorised by its policy instead, the TPM neither
// counts failures nor refuses the key.
func (r *ring) user(k *key) tpm2.Session {
	return r.policy(k.public.NameAlg, 0, k.template.PolicyBranches)
}

// errEKPolicy means that the endorsement key has a policy of the TPM's maker, which only the maker
// can satisfy.
var errEKPolicy = errors.New("the endorsement key has a policy that is not in the EK profile, so only the TPM's maker can use the key")

// ekSession returns the authorisation for an endorsement key: policy A for keys from the low-range
// templates of the EK profile (B.6), policy B for keys from the high-range templates. It avoids the
// EK's password for the reason that the comment of the method `user` gives. A key from a maker's
// own template may allow only the key's password, which is empty.
func (r *ring) ekSession(ek *tcg.Public) (tpm2.Session, error) {
	alg := ek.NameAlg
	if _, err := alg.Hash(); err != nil {
		return nil, err
	}
	if bytes.Equal(ek.AuthPolicy, tcg.PolicySecretEndorsement(alg)) {
		return r.policy(alg, 0, nil), nil
	}
	for _, t := range tcg.EKTemplates {
		if t.PolicyBranches != nil && t.Public.NameAlg == alg && bytes.Equal(t.Public.AuthPolicy, ek.AuthPolicy) {
			return r.policy(alg, 0, t.PolicyBranches), nil
		}
	}
	if ek.Attributes.Has(tcg.UserWithAuth) {
		return tpm2.PasswordAuth(nil), nil
	}
	return nil, errEKPolicy
}
