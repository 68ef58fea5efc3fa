// Package identity manages a device's keys in its TPM 2.0. It finds the endorsement key (EK) and
// the EK certificate, makes the attestation key (IAK) and the identity key (IDevID), and certifies
// the IDevID key with the IAK. It opens credentials that the hub encrypted to the TPM, and signs
// TLS handshakes with the IDevID key.
//
//	t, err := identity.Open("/dev/tpmrm0")
//	id, err := identity.Load(ctx, t, identity.Options{})
//	csr, err := id.Request(identity.RequestInfo{Model: "...", Serial: "...", CAData: ...})
//	... send csr, receive idObject and encryptedSecret ...
//	secret, err := id.ActivateCredential(idObject, encryptedSecret)
//	cert := tls.Certificate{Certificate: chain, PrivateKey: id.Signer()}
//
// On later starts, LoadSigner is enough.
//
// All keys are primary keys. The TPM derives each key from the key's template when this package
// needs it. The package stores nothing in the TPM or on the disk, and the same TPM always derives
// the same keys.
//
// # Commands
//
// TPMs are slow, so every operation takes as few commands as possible:
//
//	operation  commands  which
//	find EK    4         GetCapability, NV_ReadPublic, NV_Read, ReadPublic
//	           +n        NV_Read: n more for a certificate of over n KiB
//	           +1        CreatePrimary, if the maker stored no EK in the TPM
//	           +2        NV_ReadPublic and NV_Read for each index of the maker's chain
//	make keys  2         CreatePrimary: IAK, IDevID
//	certify    8         StartAuthSession, PolicySecret, PolicyCommandCode, PolicyOR for the IDevID key,
//	                     StartAuthSession, PolicySecret, PolicyOR for the IAK, Certify
//	sign       4         StartAuthSession, PolicySecret, PolicyOR, Sign
//	activate   8         StartAuthSession, PolicySecret, PolicyCommandCode, PolicyOR for the IAK,
//	                     StartAuthSession, PolicySecret, PolicyOR for the EK, ActivateCredential
//	           -1        PolicyOR, for an EK of the low range (L-1, L-2)
//	release    1         FlushContext: IAK
//	           +1        FlushContext: EK, if this package made it
//	handshake  4         StartAuthSession, PolicySecret, PolicyOR, Sign, for each TLS handshake
//
// LoadSigner needs one command, CreatePrimary. A non-empty Options.EndorsementAuth adds one
// StartAuthSession to each CreatePrimary and PolicySecret. A session ends with the command that it
// authorises, so no command is needed to flush it. To hide the secret on the bus,
// ActivateCredential needs a session that is salted to the EK. The policy session for the IAK also
// serves this purpose, so no extra command is needed.
//
// # Lockout
//
// The templates of DevID and of the EK profile do not set noDA. So the TPM's dictionary attack
// protection applies to the keys' passwords, although these passwords are empty. If a program has
// used such a password, the next power loss increases the count of failures (Part 1, 19.8.6). At
// the limit, the TPM refuses the keys for minutes or hours. Therefore this package never uses a
// key's password. Instead, it authorises each use of a key with a policy that refers to the
// endorsement hierarchy, to which the protection does not apply. The TPM neither counts the use of
// a policy session as a guess nor refuses it during a lockout.
//
// # Cleanup
//
// A TPM has room for three objects and three sessions. Identity.Close, Signer.Close and TPM.Close
// flush everything that this package made and has not flushed yet, even after a failure. If a
// response was lost, the TPM may hold an object with an unknown handle. If the connection to the
// TPM is a socket, no other program uses the TPM, and the package flushes all objects. If the
// connection is /dev/tpmrm0, the kernel flushes the objects when the device file is closed.
package identity
