package onboard_test

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/hub/trust"
	"gangway/internal/fleet"
	"gangway/tcg"
)

func TestPolicyHoldsForTheNextRequestInEveryReplica(t *testing.T) {
	s := newScene(t)
	other := s.replica()
	d := s.device()
	enrol := func(hub *onboard.Service) error {
		_, err := hub.Enrol(t.Context(), s.request(d, s.token, fleet.RequestChange{}), addr)
		return err
	}
	for range 3 {
		s.must(enrol(s.hub))
		s.must(enrol(other))
	}
	equal(s, "reads of policies", s.store.count("Policy"), 4) // two replicas read two scopes each
	equal(s, "reads of certificates", s.store.count("TrustedCertificates"), 2)
	s.policy(s.anne.ID, "version: 1\nrules: [{maker: FAKE, then: refuse, reason: no}]\n")
	s.refused(enrol(s.hub), "policy")
	s.refused(enrol(other), "policy")
	marys := s.newToken(store.JoinToken{Owner: s.mary.ID})
	_, err := s.hub.Enrol(t.Context(), s.request(d, marys, fleet.RequestChange{}), addr)
	s.must(err) // anne's policy does not apply to mary's devices
	s.policy(store.HubWide, "version: 1\nsoftware_tpms: [FAKE]\nrules: [{maker: FAKE, then: refuse, reason: no}]\n")
	_, err = s.hub.Enrol(t.Context(), s.request(d, marys, fleet.RequestChange{}), addr)
	s.refused(err, "policy")
}

// Policy returns the policy for an owner's devices, or the store's error if the store fails.
func TestPolicyInForceIsReturned(t *testing.T) {
	s := newScene(t)
	p, err := s.hub.Policy(t.Context(), s.anne.ID)
	s.must(err)
	equal(s, "without a TPM", p.WithoutTPM, false)
	s.policy(store.HubWide, labRules+"without_tpm: accept\n")
	p, err = s.hub.Policy(t.Context(), s.anne.ID)
	s.must(err)
	equal(s, "without a TPM", p.WithoutTPM, true)
	for n := 1; n <= 5; n++ { // ConfigVersion, then two reads for each of the two scopes
		s.policy(store.HubWide, labRules)
		s.store.calls, s.store.failAt, s.store.failure = nil, n, errBroken
		if _, err := s.hub.Policy(t.Context(), s.anne.ID); !errors.Is(err, errBroken) {
			t.Errorf("call %d failed, and Policy returned %v", n, err)
		}
		s.store.failAt = 0
	}
}

func TestUnreadablePolicyLetsNobodyIn(t *testing.T) {
	s := newScene(t)
	for _, owner := range []string{s.anne.ID, store.HubWide} {
		s.policy(owner, "version: 99\n")
		if err := s.enrol(s.device()); err == nil || !strings.Contains(err.Error(), "policy") {
			t.Errorf("got %v", err)
		}
		s.policy(owner, labRules)
	}
}

func TestOperatorsDecisionOnTrustIsObeyed(t *testing.T) {
	s := newScene(t)
	d := s.device()
	s.must(s.enrol(d))
	hash := store.Hash(sha256.Sum256(s.maker.Root.Raw))
	s.must(s.store.ChangeTrust(t.Context(), distrust(s.maker.Root)))
	s.refused(s.enrol(d), "ek-chain-distrusted")
	s.must(s.store.ChangeTrust(t.Context(), store.TrustChange{Remove: []store.Hash{hash}}))
	s.must(s.enrol(d))
	// If one of the operator's stored decisions about CA certificates cannot be read, no device is
	// accepted.
	s.must(s.store.ChangeTrust(t.Context(), store.TrustChange{Put: []store.TrustedCertificate{{Fingerprint: store.Hash{1}, DER: []byte("?"), Kind: store.Distrusted}}}))
	if err := s.enrol(d); err == nil {
		t.Error("accepted, though the operator's decisions cannot be read")
	}
	s.must(s.store.ChangeTrust(t.Context(), store.TrustChange{Remove: []store.Hash{{1}}}))
	s.hub.SetTrust(trust.NewSet())
	s.waits(s.enrol(d), "ek-chain-untrusted")
	without := &onboard.Service{Store: s.store, CA: s.hub.CA, Log: s.hub.Log, Now: s.hub.Now}
	if _, err := without.Enrol(t.Context(), s.request(d, s.token, fleet.RequestChange{}), addr); err == nil {
		t.Error("a service without SetTrust accepted a device")
	}
}

// The operator changes the trusted certificates after a request has read the config version, but
// before it reads the certificates. The hub must not cache the new certificates under the older
// version.
func TestTrustThatChangesDuringTheReadIsReadAgain(t *testing.T) {
	s := newScene(t)
	hash := store.Hash(sha256.Sum256(s.maker.Root.Raw))
	changed := false
	s.store.before = func(method string) {
		if method == "TrustedCertificates" && !changed {
			changed = true
			s.store.mu.Lock()
			defer s.store.mu.Unlock()
			s.store.trusted[hash] = store.TrustedCertificate{Fingerprint: hash, DER: s.maker.Root.Raw, Kind: store.Distrusted}
			s.store.version++
		}
	}
	d := s.device()
	s.refused(s.enrol(d), "ek-chain-distrusted")
	s.store.trusted, s.store.version = map[store.Hash]store.TrustedCertificate{}, s.store.version+1
	s.must(s.enrol(d))
}

// If many requests find a new config version at the same time, only one of them reads the
// certificates.
func TestTrustIsReadOnceForAllRequests(t *testing.T) {
	s := newScene(t)
	d := s.device()
	body := s.request(d, s.token, fleet.RequestChange{})
	versions := func() int { return s.store.count("JoinTokenForEK") }
	var other sync.WaitGroup
	s.store.before = func(method string) {
		if method != "TrustedCertificates" || s.store.count(method) > 0 {
			return
		}
		before := versions()
		other.Go(func() {
			if _, err := s.hub.Enrol(t.Context(), body, addr); err != nil {
				t.Error(err)
			}
		})
		for range 1000 { // wait until the new request has read the version, and waits for the request that reads the certificates
			if time.Sleep(time.Millisecond); versions() > before {
				break
			}
		}
	}
	s.must(s.enrol(d))
	other.Wait()
	equal(s, "reads", s.store.count("TrustedCertificates"), 1)
	before := versions()
	s.must(s.enrol(d))
	equal(s, "reads of the version by a later request", versions()-before, 0)
}

func TestEKLists(t *testing.T) {
	const unlisted = "ek-unlisted"
	for name, c := range map[string]struct {
		hub, owner  func(key *store.Hash, serial []byte) store.ListedEK
		certificate bool
		refusal     string
		question    string
	}{
		"no list":                                               {certificate: true},
		"the owner's list has the key":                          {owner: byKey, certificate: true},
		"the owner's list has the serial number":                {owner: bySerial, certificate: true},
		"the owner's list has another TPM":                      {owner: another, certificate: true, refusal: unlisted},
		"the hub's list has the key":                            {hub: byKey, certificate: true},
		"the hub's list has the serial number":                  {hub: bySerial, certificate: true},
		"the hub's list has another TPM":                        {hub: another, certificate: true, refusal: unlisted},
		"both lists have it":                                    {hub: bySerial, owner: byKey, certificate: true},
		"only the hub's of two lists has it":                    {hub: byKey, owner: another, certificate: true, refusal: unlisted},
		"only the owner's of two lists has it":                  {hub: another, owner: byKey, certificate: true, refusal: unlisted},
		"the owner's list vouches without a certificate":        {owner: byKey},
		"the hub's list does not":                               {hub: byKey, question: "ek-certificate-none"},
		"a serial number without a certificate":                 {owner: bySerial, refusal: unlisted},
		"the hub's list does not vouch if the owner's lacks it": {hub: byKey, owner: another, refusal: unlisted},
		"the owner's list requires a certificate":               {owner: required, refusal: "ek-certificate-required"},
		"the hub's list requires a certificate":                 {hub: required, owner: byKey, refusal: "ek-certificate-required"},
		"and it is there":                                       {owner: required, certificate: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			d := s.device()
			key := s.ekHash(d)
			cert, err := x509.ParseCertificate(d.EKCert)
			s.must(err)
			for owner, line := range map[string]func(*store.Hash, []byte) store.ListedEK{store.HubWide: c.hub, s.anne.ID: c.owner} {
				if line != nil {
					s.must(s.store.PutEKList(t.Context(), owner, []store.ListedEK{line(&key, cert.SerialNumber.Bytes())}))
				}
			}
			if !c.certificate {
				d.EKCert = d.EK.Public.Raw
			}
			switch err := s.enrol(d); {
			case c.refusal != "":
				s.refused(err, c.refusal)
			case c.question != "":
				s.waits(err, c.question)
			default:
				s.must(err)
			}
		})
	}
}

func byKey(key *store.Hash, _ []byte) store.ListedEK { return store.ListedEK{Key: key} }
func bySerial(_ *store.Hash, serial []byte) store.ListedEK {
	return store.ListedEK{Cert: serial}
}
func another(*store.Hash, []byte) store.ListedEK { return store.ListedEK{Cert: []byte{42}} }
func required(key *store.Hash, _ []byte) store.ListedEK {
	return store.ListedEK{Key: key, CertificateRequired: true}
}

// If a TPM is on two lists, and only one of the two entries has a note, the verdict shows this
// note.
func TestNoteOfTheLineIsShown(t *testing.T) {
	s := newScene(t)
	d := s.device()
	key := s.ekHash(d)
	s.must(s.store.PutEKList(t.Context(), store.HubWide, []store.ListedEK{{Key: &key}}))
	s.must(s.store.PutEKList(t.Context(), s.anne.ID, []store.ListedEK{{Key: &key, Note: "pallet 7"}}))
	c := s.enrolled(d, s.token)
	if v := s.store.byCertificate(c.IDevIDHash()).Verdict; !strings.Contains(string(v), "pallet 7") {
		t.Errorf("the verdict lacks the note: %.300s", v)
	}
}

// The hub and the owner may set unlisted_ek to different values. If the hub's list lacks the TPM,
// the hub's value applies. If only the owner's list lacks it, the owner's value applies.
func TestUnlistedFollowsTheListThatLacksIt(t *testing.T) {
	for name, c := range map[string]struct {
		hub, owner func(*store.Hash, []byte) store.ListedEK
		without    bool
		refused    bool
	}{
		"the owner's list lacks it":                      {owner: another},
		"the hub's list lacks it":                        {hub: another, refused: true},
		"the hub's list has its serial number only":      {hub: bySerial, owner: another, without: true, refused: true},
		"both lists have its serial number only":         {hub: bySerial, owner: bySerial, without: true, refused: true},
		"both lists have another one":                    {hub: another, owner: another, refused: true},
		"the hub's list has it, the owner's lacks it":    {hub: byKey, owner: another},
		"the hub's serial number, the certificate known": {hub: bySerial, owner: another},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.policy(s.anne.ID, "version: 1\nunlisted_ek: ask\n")
			d := s.device()
			key := s.ekHash(d)
			cert, err := x509.ParseCertificate(d.EKCert)
			s.must(err)
			for owner, line := range map[string]func(*store.Hash, []byte) store.ListedEK{store.HubWide: c.hub, s.anne.ID: c.owner} {
				if line != nil {
					s.must(s.store.PutEKList(t.Context(), owner, []store.ListedEK{line(&key, cert.SerialNumber.Bytes())}))
				}
			}
			if c.without { // a certificate of another maker, with the same serial number
				evil, err := fleet.NewMaker("evil", fleet.MakerOptions{})
				s.must(err)
				template, err := fleet.EKTemplate(d.EK.Private.Public())
				s.must(err)
				template.SerialNumber = cert.SerialNumber
				forged, err := evil.Sign(template, d.EK.Private.Public())
				s.must(err)
				d.EKCert = forged.Raw
			}
			err = s.enrol(d)
			if c.refused {
				s.refused(err, "ek-unlisted")
				return
			}
			s.waits(err, "ek-unlisted")
		})
	}
}

// A device cannot escape a refusal by leaving out the certificate that it sent before.
func TestCertificateThatIsLeftOutStillCounts(t *testing.T) {
	s := newScene(t)
	d := s.device()
	s.policy(s.anne.ID, "version: 1\nrules: [{maker: FAKE, then: refuse, reason: no}]\n")
	s.refused(s.enrol(d), "policy")
	kept := s.store.kept[s.ekHash(d)]
	equal(s, "certificate kept", string(kept.Certificate), string(d.EKCert))
	equal(s, "expires", kept.Expires, s.now.Add(store.UnprovenEKKeptFor))
	if links, _ := tcg.SplitCertificates(kept.Links); len(links) != 1 {
		t.Errorf("%d intermediates are kept, want 1", len(links))
	}
	bare := *d
	bare.EKCert = d.EK.Public.Raw
	r := s.refused(s.enrol(&bare), "policy")
	if !strings.Contains(r.Reason, "leaves out an EK certificate") {
		t.Errorf("the refusal does not say why: %s", r.Reason)
	}
	// A certificate of an unknown maker does not replace the stored certificate.
	evil, err := fleet.NewMaker("evil", fleet.MakerOptions{})
	s.must(err)
	template, err := fleet.EKTemplate(d.EK.Private.Public())
	s.must(err)
	forged, err := evil.Sign(template, d.EK.Private.Public())
	s.must(err)
	replaced := *d
	replaced.EKCert = forged.Raw
	s.refused(s.enrol(&replaced), "policy")
	equal(s, "certificate kept", string(s.store.kept[s.ekHash(d)].Certificate), string(d.EKCert))
	// If a request is refused for another reason, the hub does not look for the stored certificate.
	s.policy(s.anne.ID, "version: 1\nno_ek_certificate: refuse\n")
	before := s.store.count("EKCertificate")
	s.refused(s.enrol(&bare), "ek-certificate-none")
	equal(s, "looks for the kept one", s.store.count("EKCertificate"), before)
}

// When a device repeats a refused request, the hub stores the device's EK certificate again only
// after half of the storage time.
func TestKeptCertificateIsWrittenRarely(t *testing.T) {
	s := newScene(t)
	d := s.device()
	s.policy(s.anne.ID, "version: 1\nrules: [{maker: FAKE, then: refuse, reason: no}]\n")
	writes := func(want int) {
		t.Helper()
		s.refused(s.enrol(d), "policy")
		equal(s, "writes", s.store.count("KeepEKCertificate"), want)
	}
	writes(1)
	writes(1)
	s.now = s.now.Add(store.UnprovenEKKeptFor/2 - time.Second)
	row := s.store.tokens[s.token.ID]
	row.Expires = s.now.Add(1000 * time.Hour * 24)
	s.store.tokens[s.token.ID] = row
	writes(1)
	s.now = s.now.Add(time.Second)
	writes(2)
	// The hub does not replace a stored certificate that differs from the request's certificate, or
	// one that a TPM has proven.
	key := s.ekHash(d)
	kept := s.store.kept[key]
	kept.Expires = s.now
	for _, one := range []store.KeptEKCertificate{{EK: key, Certificate: kept.Certificate, Proven: true}, {EK: key, Certificate: s.device().EKCert, Expires: s.now.Add(time.Hour)}} {
		s.store.kept[key] = one
		err := s.enrol(d)
		if err == nil {
			t.Error("accepted")
		}
		equal(s, "writes", s.store.count("KeepEKCertificate"), 2)
	}
	// BeginEnrolment stores the certificate of an accepted request, so KeepEKCertificate is not
	// called.
	s.policy(s.anne.ID, "")
	s.must(s.enrol(s.device()))
	equal(s, "writes", s.store.count("KeepEKCertificate"), 2)
}

func TestKeptCertificateOfAnotherEKIsAnError(t *testing.T) {
	s := newScene(t)
	d := s.withoutCertificate()
	key := s.ekHash(d)
	s.store.kept[key] = store.KeptEKCertificate{EK: key, Certificate: s.device().EKCert, Proven: true}
	err := s.enrol(d)
	var waiting *onboard.WaitingError
	if err == nil || errors.As(err, &waiting) {
		t.Errorf("got %v", err)
	}
}

func distrust(c *x509.Certificate) store.TrustChange {
	return store.TrustChange{Put: []store.TrustedCertificate{{Fingerprint: sha256.Sum256(c.Raw), DER: c.Raw, Kind: store.Distrusted}}}
}
