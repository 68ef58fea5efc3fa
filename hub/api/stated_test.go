package api_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"strings"
	"testing"

	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/tcg"
)

// An owner's approval does not prove that a machine's keys are in a TPM. So the certificates of an
// approved machine neither state this, nor name a maker that the hub does not trust.
func TestCertificatesStateOnlyWhatWasVerified(t *testing.T) {
	t.Parallel()
	unknown := must(unknownMaker())(t)
	for _, c := range []struct {
		name     string
		device   func(*testing.T, *scene) *fleet.Device
		approved bool
	}{
		{"trusted maker", func(t *testing.T, s *scene) *fleet.Device { return s.victim }, false},
		{"no EK certificate", func(t *testing.T, s *scene) *fleet.Device { return s.uncertified(t) }, true},
		{"EK certificate by an unknown maker", func(t *testing.T, s *scene) *fleet.Device { return certifiedBy(t, s.victim, unknown) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			d := c.device(t, s)
			if c.approved {
				a := s.post(t, s.request(t, d))
				decide(s.person(t, "ada"), s.waitingID(t, a), "approve", 200)
			}
			certs := must(d.Onboard(t.Context(), s.client, s.tok))(t)
			for name, cert := range map[string]*x509.Certificate{"IAK": certs.IAK, "IDevID": certs.IDevID} {
				if (len(cert.Policies) > 0) == c.approved {
					t.Errorf("%s: policies %s", name, brief.Of(cert.Policies))
				}
				if bytes.Contains(cert.Raw, []byte("FAKE:")) == c.approved {
					t.Errorf("%s: the maker in its HardwareModuleName", name)
				}
			}
		})
	}
}

func (s *scene) waitingID(t testing.TB, a *fleet.Answer) string {
	t.Helper()
	var w struct {
		ID string `json:"device-id"`
	}
	if err := json.Unmarshal(a.Body, &w); err != nil || a.Status != 202 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	return w.ID
}

// A TPM can onboard even if its maker's name is too long for the hub's certificates.
func TestLongMakersNameOnboards(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	d := *s.victim
	type attribute struct {
		ID    asn1.ObjectIdentifier
		Value string `asn1:"utf8"`
	}
	type rdn []attribute
	for _, maker := range []string{strings.Repeat("é", 60), strings.Repeat("M", 64), "é" + strings.Repeat("é", 15)} {
		set := must(asn1.MarshalWithParams(rdn{{tcg.OIDManufacturer, maker}}, "set"))(t)
		name := must(asn1.Marshal([]asn1.RawValue{{FullBytes: set}}))(t)
		san := must(asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name}}))(t)
		template := must(fleet.EKTemplate(d.EK.Private.Public()))(t)
		template.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: san}}
		d.EKCert = must(s.maker.Sign(template, d.EK.Private.Public()))(t).Raw
		must(d.Onboard(t.Context(), s.client, s.tok))(t)
		body := must(json.Marshal(d.EnrollRequest()))(t)
		if a := must(s.client.Post(t.Context(), "/enroll/request", bytes.NewReader(body)))(t); a.Status != 200 {
			t.Errorf("%q, first of two steps: %d %s", maker, a.Status, a.Body)
		}
	}
}
