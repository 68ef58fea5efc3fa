// Package identity is the device's side of its TPM 2.0: it finds the
// endorsement key (EK) and its certificate, makes the attestation key (IAK)
// and the identity key (IDevID), has the one certified by the other, opens
// what the hub encrypted to the TPM, and signs with the identity key in TLS.
//
//	t, err := identity.Open("/dev/tpmrm0")
//	id, err := identity.Load(ctx, t, identity.Options{})
//	csr, err := id.Request(identity.RequestInfo{Model: "...", Serial: "...", CAData: ...})
//	... send csr, receive idObject and encryptedSecret ...
//	secret, err := id.ActivateCredential(idObject, encryptedSecret)
//	cert := tls.Certificate{Certificate: chain, PrivateKey: id.Signer()}
//
// On later starts LoadSigner alone is enough.
//
// All keys are primary keys, made from their templates by the TPM whenever
// they are needed: nothing is stored, in the TPM or on the disk, and the same
// TPM gives the same keys for ever.
//
// # Commands
//
// TPMs are slow, so every operation takes as few commands as possible:
//
//	operation  commands  which
//	find EK    4         GetCapability, NV_ReadPublic, NV_Read, ReadPublic
//	           +n        NV_Read: n more for a certificate of over n KiB
//	           +1        CreatePrimary, when the maker left no EK in the TPM
//	           +2        NV_ReadPublic and NV_Read for each index of the maker's chain
//	make keys  2         CreatePrimary: IAK, IDevID
//	certify    8         StartAuthSession, PolicySecret, PolicyCommandCode, PolicyOR for the IDevID key,
//	                     StartAuthSession, PolicySecret, PolicyOR for the IAK, Certify
//	sign       4         StartAuthSession, PolicySecret, PolicyOR, Sign
//	activate   8         StartAuthSession, PolicySecret, PolicyCommandCode, PolicyOR for the IAK,
//	                     StartAuthSession, PolicySecret, PolicyOR for the EK, ActivateCredential
//	           -1        PolicyOR, for an EK of the low range (L-1, L-2)
//	release    1         FlushContext: IAK
//	           +1        FlushContext: EK, when it was made here
//	handshake  4         StartAuthSession, PolicySecret, PolicyOR, Sign, for each TLS handshake
//
// LoadSigner takes one CreatePrimary. An Options.EndorsementAuth that is not
// empty adds one StartAuthSession to each CreatePrimary and PolicySecret.
// Sessions end with the command that they authorise, which costs nothing,
// and the session of ActivateCredential, which must be salted to the EK to
// hide the secret on the bus, is the IAK's policy session itself.
//
// # Lockout
//
// DevID's and the EK profile's templates do not set noDA, so a TPM protects the
// keys' passwords from guessing, though they are empty. Its count of guesses
// rises with each loss of power after such a password was used (Part 1, 19.8.6),
// and at its limit the TPM refuses the keys for minutes or hours. So no key's
// password is ever used: policies authorise each use, with the endorsement
// hierarchy, which is not protected from guessing. They are neither counted
// nor refused.
//
// # What is cleaned up
//
// A TPM has room for three objects and as many sessions. Whatever fails,
// what was made is flushed by Identity.Close, Signer.Close or TPM.Close, at
// the latest. Where a response was lost, so that nobody knows whether there
// is an object, a TPM on a socket, which is ours alone, is swept; behind
// /dev/tpmrm0 the kernel flushes when the device is closed.
package identity
