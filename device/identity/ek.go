package identity

import (
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"

	"gangway/device/identity/tpmrc"
	"gangway/tcg"

	"github.com/google/go-tpm/tpm2"
)

// nvEndorsement is the first NV index that the EK profile defines. nvEndorsementLast is the last
// one that this package reads.
const (
	nvEndorsement     = 0x01C00000
	nvEndorsementLast = tcg.ChainLast
)

// findEK sets i.EK and the fields of i that describe the EK. It uses the first template for which
// the TPM has a certificate that matches the key made from the template.
func (i *Identity) findEK(o Options) error {
	templates, err := ekTemplates(o.EK)
	if err != nil {
		return err
	}
	indices, err := i.ring.t.listHandles(nvEndorsement, func(index uint32) bool { return index <= nvEndorsementLast })
	if err != nil {
		return fmt.Errorf("identity: listing the NV indices of the TPM's maker: %w", err)
	}
	var found []string // for each unusable certificate, a text with the reason
	var first tcg.Omission
	for _, template := range templates {
		if !slices.Contains(indices, template.CertificateIndex) {
			continue
		}
		err := i.tryEK(template, indices)
		if err == nil {
			i.EKChain, i.Notes = i.chainOf(indices, found)
			return nil
		}
		if !isVerdict(err) {
			return fmt.Errorf("identity: endorsement key %s: %w", template.Name, err)
		}
		found = append(found, fmt.Sprintf("EK certificate %s (0x%08X): %v", template.Name, template.CertificateIndex, tpmrc.Explain(err, tpmrc.None)))
		if first.Why == 0 {
			first = tcg.Omission{Why: reasonOf(err), Index: template.CertificateIndex}
		}
	}
	switch {
	case o.AllowUnvouched && o.WithoutCertificate:
		i.Omission = first
		return i.noEKCertificate(templates, indices, found)
	case o.AllowUnvouched:
		i.Omission = first
		return i.unvouchedEK(templates, indices, found)
	case len(found) > 0:
		return fmt.Errorf("%w: %s", ErrEKMismatch, strings.Join(found, "; "))
	}
	return fmt.Errorf("%w (%s)", ErrNoEKCertificate, looked(indices))
}

// unvouchedEK uses the first readable certificate together with the key of that certificate's
// template, so that the hub sees that the two do not match. If no certificate is readable,
// unvouchedEK uses a key without a certificate.
func (i *Identity) unvouchedEK(templates []tcg.Template, indices []uint32, notes []string) error {
	for _, template := range templates {
		if !slices.Contains(indices, template.CertificateIndex) {
			continue
		}
		raw, err := i.ring.t.readNV(template.CertificateIndex)
		if err != nil {
			continue
		}
		cert, err := tcg.ParseEKCertificate(raw)
		if err != nil {
			continue
		}
		if err := i.plainEK([]tcg.Template{template}, indices); err == nil {
			i.EKCertificate, i.Notes, i.Omission = cert, append(notes, i.Notes...), tcg.Omission{}
			return nil
		} else if !isVerdict(err) {
			return err
		}
	}
	return i.noEKCertificate(templates, indices, notes)
}

func (i *Identity) noEKCertificate(templates []tcg.Template, indices []uint32, notes []string) error {
	if err := i.plainEK(templates, indices); err != nil {
		return err
	}
	i.Notes = append(notes, i.Notes...)
	return nil
}

// reasonOf returns the reason why a certificate is not usable, as the code that the device reports
// to its hub.
func reasonOf(err error) tcg.OmissionReason {
	var v verdict
	if errors.As(err, &v) && v.why != 0 {
		return v.why
	}
	return tcg.CertificateOfOtherKey
}

func (i *Identity) chainOf(indices []uint32, notes []string) ([][]byte, []string) {
	var leaf []byte
	if i.EKCertificate != nil {
		leaf = i.EKCertificate.Certificate.Raw
	}
	chain, more := i.ring.t.readChain(indices, leaf)
	return chain, append(notes, more...)
}

func ekTemplates(name string) ([]tcg.Template, error) {
	if name == "" {
		return tcg.EKTemplates, nil
	}
	var names []string
	for _, t := range tcg.EKTemplates {
		if t.Name == name {
			return []tcg.Template{t}, nil
		}
		names = append(names, t.Name)
	}
	return nil, fmt.Errorf("identity: unknown EK template %q; use one of %s", name, strings.Join(names, ", "))
}

func looked(indices []uint32) string {
	if len(indices) == 0 {
		return "no NV index from 0x01C00000 to 0x01C001FF is defined"
	}
	var s []string
	for _, index := range indices {
		s = append(s, fmt.Sprintf("0x%08X", index))
	}
	return "NV indices that its maker defined: " + strings.Join(s, ", ")
}

// verdict is an error about one certificate or key, after which the caller tries the next one. Any
// other error means that communication with the TPM failed.
type verdict struct {
	error
	why tcg.OmissionReason // 0: the TPM's key does not match the certificate, or cannot be made
}

func (v verdict) Unwrap() error { return v.error }

func isVerdict(err error) bool {
	var v verdict
	return errors.As(err, &v)
}

// The function `judged` turns an error of the TPM about one NV index or one template into a
// verdict. It returns errors about the whole TPM unchanged.
func judged(err error) error {
	var rc tpm2.TPMRC
	if !errors.As(err, &rc) || isFull(err) || rc == tpm2.TPMRCFailure || rc == tpm2.TPMRCInitialize || rc == tpm2.TPMRCLockout {
		return err
	}
	return verdict{error: err}
}

// tryEK uses the key of the given template if it matches the certificate for that template.
func (i *Identity) tryEK(template tcg.Template, indices []uint32) error {
	t := i.ring.t
	raw, err := t.readNV(template.CertificateIndex)
	if err = judged(err); isVerdict(err) {
		return verdict{err, tcg.CertificateUnreadable}
	}
	if err != nil {
		return err
	}
	cert, err := tcg.ParseEKCertificate(raw)
	if err != nil {
		return verdict{err, tcg.CertificateMalformed}
	}
	fits := func(p *tcg.Public) bool { return sameKey(p, cert.PublicKey) }
	k, err := i.persistentEK(template, fits)
	if err != nil {
		return err
	}
	if k == nil {
		if template, err = t.storedTemplate(template, indices); err != nil {
			return err
		}
		if k, err = i.madeEK(template, fits); err != nil {
			return err
		}
	}
	i.setEK(k, template.Name, cert)
	return nil
}

// plainEK uses a key without a certificate. If the caller requested a template, plainEK uses that
// template's key. Otherwise it uses the key of template L-2, or of template L-1 if the TPM lacks
// L-2's curve. Some makers offer EK certificates only for download, and these are for the keys of
// L-2 or L-1. plainEK always chooses the same key, so that the hub recognises the device.
func (i *Identity) plainEK(templates []tcg.Template, indices []uint32) error {
	if len(templates) > 1 {
		templates = nil
		for _, name := range []string{"L-2", "L-1"} {
			one, err := ekTemplates(name)
			if err != nil {
				return err
			}
			templates = append(templates, one...)
		}
	}
	var errs []error
	for _, template := range templates {
		template, err := i.ring.t.storedTemplate(template, indices)
		if err == nil {
			var k *key
			if k, err = i.persistentEK(template, template.Matches); err == nil && k == nil {
				k, err = i.madeEK(template, template.Matches)
			}
			if err == nil {
				i.setEK(k, template.Name, nil)
				i.EKChain, i.Notes = i.chainOf(indices, nil)
				return nil
			}
		}
		errs = append(errs, fmt.Errorf("identity: endorsement key %s: %w", template.Name, err))
		if !isVerdict(err) {
			break
		}
	}
	return errors.Join(errs...)
}

func (i *Identity) setEK(k *key, name string, cert *tcg.EKCertificate) {
	i.ek, i.EK, i.EKTemplate, i.EKCertificate = k, k.public, name, cert
}

// persistentEK returns the key at the persistent handle that the EK profile reserves for the
// template. If there is no usable key at that handle, or `fits` does not accept the key,
// persistentEK returns nil.
func (i *Identity) persistentEK(template tcg.Template, fits func(*tcg.Public) bool) (*key, error) {
	if template.Handle == 0 {
		return nil, nil
	}
	rsp, err := run(i.ring.t, tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(template.Handle)})
	var rc tpm2.TPMRC
	if errors.As(err, &rc) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	public, name, err := parsePublic(rsp.OutPublic.Bytes(), rsp.Name.Buffer)
	if err != nil || !fits(public) {
		return nil, nil
	}
	if _, err := i.ring.ekSession(public); err != nil {
		return nil, nil
	}
	return &key{template: template, public: public, name: name, handle: template.Handle, persistent: true}, nil
}

// madeEK makes the template's key in the TPM, and returns it if `fits` accepts it.
func (i *Identity) madeEK(template tcg.Template, fits func(*tcg.Public) bool) (*key, error) {
	k := &key{template: template}
	i.ring.keys = append(i.ring.keys, k)
	if err := i.ring.attempt([]*key{k}, nil); isUnsupported(err) {
		return nil, judged(err)
	} else if err != nil {
		return nil, err
	}
	if fits(k.public) {
		_, err := i.ring.ekSession(k.public)
		if err == nil {
			return k, nil
		}
		return nil, errors.Join(verdict{error: err}, i.ring.release(k))
	}
	return nil, errors.Join(verdict{error: errors.New("the certificate's key is not the key that this TPM makes from the template")}, i.ring.release(k))
}

func sameKey(p *tcg.Public, want crypto.PublicKey) bool {
	own, err := p.Key()
	if err != nil {
		return false
	}
	k, ok := own.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(want)
}

// storedTemplate returns the template that the TPM actually uses: some TPMs store, for L-1 and L-2,
// a template that replaces the default template, and a nonce that replaces the start of the
// template's unique field (EK profile 2.2.1.4).
func (t *TPM) storedTemplate(template tcg.Template, indices []uint32) (tcg.Template, error) {
	var templateIndex, nonceIndex uint32
	switch template.Name {
	case "L-1":
		templateIndex, nonceIndex = tcg.RSATemplateIndex, tcg.RSANonceIndex
	case "L-2":
		templateIndex, nonceIndex = tcg.ECCTemplateIndex, tcg.ECCNonceIndex
	default:
		return template, nil
	}
	if slices.Contains(indices, templateIndex) {
		raw, err := t.readNV(templateIndex)
		if err != nil {
			return template, judged(err)
		}
		public, err := tcg.ParsePublic(raw)
		if err != nil {
			return template, verdict{error: fmt.Errorf("the template stored at 0x%08X: %w", templateIndex, err)}
		}
		template.Public = *public
		template.PolicyBranches = nil
	}
	if slices.Contains(indices, nonceIndex) {
		nonce, err := t.readNV(nonceIndex)
		if err != nil {
			return template, judged(err)
		}
		p := &template.Public
		unique, size := &p.Modulus, int(p.KeyBits)/8
		if p.Type == tcg.AlgECC {
			unique, size = &p.X, max(len(p.X), 32)
			p.Y = slices.Concat(p.Y, make([]byte, max(0, size-len(p.Y))))
		}
		if len(nonce) > size {
			return template, verdict{error: fmt.Errorf("the nonce stored at 0x%08X has %d bytes, but the key's unique field has %d", nonceIndex, len(nonce), size)}
		}
		filled := slices.Concat(*unique, make([]byte, max(0, size-len(*unique))))
		copy(filled, nonce)
		*unique = filled
		p.Raw = p.Marshal()
	}
	return template, nil
}
