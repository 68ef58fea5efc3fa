package identity

import (
	"context"
	"errors"
	"fmt"

	"gangway/tcg"
)

// Algorithm is the algorithm of the IAK and the IDevID key.
type Algorithm string

// The algorithms of DevID 7.3.4. P-521 is slow on small TPMs. RSA is slow on all TPMs: a TPM may
// need a minute to make an RSA key.
const (
	P256    Algorithm = "P-256"
	P384    Algorithm = "P-384"
	P521    Algorithm = "P-521"
	RSA2048 Algorithm = "RSA-2048"
)

// templateName is the name of each algorithm's templates.
var templateName = map[Algorithm]string{RSA2048: "H-1", P256: "H-2", P384: "H-3", P521: "H-4"}

// Options are the options of Load and LoadSigner. The zero value suits nearly all machines.
type Options struct {
	// Algorithm is the algorithm of the IAK and the IDevID key. Empty means P-256, or RSA 2048 if
	// the TPM lacks P-256. A device that uses another algorithm has another identity.
	Algorithm Algorithm

	// EK is the name of the endorsement key's template, as in tcg.EKTemplates, for example "L-1" or
	// "H-3". Empty means the best template for which the TPM has a certificate.
	EK string

	// AllowUnvouched accepts an endorsement key (EK) without a matching certificate, instead of
	// failing with ErrNoEKCertificate or ErrEKMismatch. The hub and the owner then decide whether
	// to accept the device. If the TPM has only a certificate that does not match, the request
	// includes that certificate.
	AllowUnvouched bool

	// WithoutCertificate omits the EK certificate from the request if the certificate does not
	// match the TPM's EK, because the hub would refuse such a request. After TPM2_ChangeEPS, which
	// replaces the TPM's keys, no stored certificate matches. A certificate that matches the EK is
	// always in the request.
	WithoutCertificate bool

	// EndorsementAuth is the authorisation value of the endorsement hierarchy. It is empty if none
	// was set.
	EndorsementAuth []byte
}

// Keys are the public parts of a device's keys in its TPM. Callers must not change the fields.
type Keys struct {
	EK            *tcg.Public
	EKTemplate    string             // the name of the EK's template, such as "H-3"
	EKCertificate *tcg.EKCertificate // with Options.AllowUnvouched, the certificate may be nil or for another key
	EKChain       [][]byte           // intermediate certificates (DER) that the maker stored in the TPM, not verified, in the TPM's order

	IAK, IDevID         *tcg.Public
	IAKName, IDevIDName []byte // TPM names: nameAlg (2 bytes, big-endian), digest

	// Omission is the reason why EKCertificate is nil although the TPM has a certificate.
	Omission tcg.Omission

	// Notes are sentences for a person about problems that did not prevent the operation, such as a
	// certificate that does not match, or an incomplete chain.
	Notes []string
}

// Identity holds a device's keys in its TPM, ready for an enrolment. Several goroutines may call
// its methods.
type Identity struct {
	Keys
	ring            *ring
	ek, iak, idevid *key
	signer          *Signer
}

// Load finds the endorsement key and its certificate, and makes the IAK and the IDevID key.
// Depending on the TPM, it takes about 100 milliseconds or up to several seconds. It stops when ctx
// ends.
//
// The error may be ErrNoEKCertificate, ErrEKMismatch or ErrTPM12. If the TPM refused a command, the
// error contains its response code as a *tpmrc.Cause. After an error, no object that Load made
// stays in the TPM.
func Load(ctx context.Context, t *TPM, o Options) (*Identity, error) {
	end, err := t.begin(ctx, OpFindEK)
	if err != nil {
		return nil, err
	}
	defer end()
	i := &Identity{ring: &ring{t: t, endAuth: o.EndorsementAuth}}
	if err := i.load(o); err != nil {
		return nil, i.ring.explain(errors.Join(err, i.ring.close()))
	}
	return i, nil
}

func (i *Identity) load(o Options) error {
	if err := i.findEK(o); err != nil {
		return err
	}
	i.ring.t.operation = OpMakeKeys
	iak, idevid, err := i.ring.makeKeys(o.Algorithm, true)
	if err != nil {
		return err
	}
	i.iak, i.IAK, i.IAKName = iak, iak.public, iak.name
	i.idevid, i.IDevID, i.IDevIDName = idevid, idevid.public, idevid.name
	i.signer, err = newSigner(i.ring, idevid, false)
	return err
}

// makeKeys makes the IAK (if `withIAK` is set) and the IDevID key of the algorithm `a`. If `a` is
// empty, makeKeys tries the default algorithms in order.
func (r *ring) makeKeys(a Algorithm, withIAK bool) (iak, idevid *key, err error) {
	choices := []Algorithm{a}
	if a == "" {
		choices = []Algorithm{P256, RSA2048}
	}
	for _, choice := range choices {
		iakTemplate, idevidTemplate, err := devidTemplates(choice)
		if err != nil {
			return nil, nil, err
		}
		idevid = &key{template: idevidTemplate}
		keys := []*key{idevid}
		if withIAK {
			iak = &key{template: iakTemplate}
			keys = []*key{iak, idevid}
		}
		before := r.keys
		r.keys = append(r.keys, keys...)
		if err = r.attempt(keys, nil); err == nil {
			return iak, idevid, nil
		}
		if !isUnsupported(err) {
			return nil, nil, fmt.Errorf("identity: making the %s keys: %w", choice, err)
		}
		if choice == choices[len(choices)-1] {
			return nil, nil, fmt.Errorf("identity: this TPM cannot make %s keys: %w", choice, err)
		}
		for _, k := range keys {
			if err := r.release(k); err != nil {
				return nil, nil, err
			}
		}
		r.keys = before
	}
	return nil, nil, errors.New("identity: no algorithm") // `choices` is never empty
}

func devidTemplates(a Algorithm) (iak, idevid tcg.Template, err error) {
	name, ok := templateName[a]
	if !ok {
		return iak, idevid, fmt.Errorf("identity: unknown algorithm %q; use %s, %s, %s or %s", a, P256, P384, P521, RSA2048)
	}
	for n := range tcg.IAKTemplates {
		if tcg.IAKTemplates[n].Name == name {
			iak = tcg.IAKTemplates[n]
		}
	}
	for n := range tcg.IDevIDTemplates {
		if tcg.IDevIDTemplates[n].Name == name {
			idevid = tcg.IDevIDTemplates[n]
		}
	}
	return iak, idevid, nil
}

// ReleaseAttestation flushes the EK and the IAK. While these keys are loaded, a resource manager
// must save and reload them around every command, which takes time. The next operation that needs
// one of these keys makes the key again. ActivateCredential calls ReleaseAttestation.
func (i *Identity) ReleaseAttestation() error {
	end, err := i.ring.begin(context.Background(), OpRelease)
	if err != nil {
		return err
	}
	defer end()
	return i.releaseAttestation()
}

func (i *Identity) releaseAttestation() error {
	return errors.Join(i.ring.release(i.iak), i.ring.release(i.ek))
}

// Close flushes all keys from the TPM and closes the Signer of i. The TPM stays open.
// A second Close does nothing.
func (i *Identity) Close() error { return i.ring.shut() }

func (r *ring) shut() error {
	end, err := r.t.begin(context.Background(), OpRelease)
	if err != nil {
		return nil // TPM.Close has already flushed everything
	}
	defer end()
	return r.close()
}

// begin starts an operation with the ring's keys. The caller must call the function `end`.
func (r *ring) begin(ctx context.Context, op Operation) (end func(), err error) {
	end, err = r.t.begin(ctx, op)
	if err == nil && r.closed {
		end()
		return nil, ErrClosed
	}
	return end, err
}
