package api_test

import (
	"crypto/x509"
	"encoding/json"
	"testing"

	"gangway/internal/fleet"
)

// If a device's certificate is not active, the hub tells the device the reason. A device that
// learns that its owner deleted it does not onboard again automatically. The hub may tell the
// reason, because the TLS handshake has proven that the peer has the certificate's key.
func TestInactiveCertificateIsToldWhatBecameOfIt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, want string
		happen     func(*testing.T, *scene) *fleet.Certificates
	}{
		{"not activated", "pending", func(t *testing.T, s *scene) *fleet.Certificates {
			return must(s.victim.Enrol(t.Context(), s.client, must(s.victim.Request(s.tok, fleet.RequestChange{}))(t)))(t)
		}},
		{"onboarded again", "superseded", func(t *testing.T, s *scene) *fleet.Certificates {
			old := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
			must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
			return old
		}},
		{"deleted", "revoked", func(t *testing.T, s *scene) *fleet.Certificates {
			c := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
			s.deleteDevice(t, s.deviceOf(t, s.victim))
			return c
		}},
		{"onboarded again, then deleted", "revoked", func(t *testing.T, s *scene) *fleet.Certificates {
			old := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
			must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
			s.deleteDevice(t, s.deviceOf(t, s.victim))
			return old
		}},
		{"not in the records", "unknown", func(t *testing.T, s *scene) *fleet.Certificates {
			c := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
			template := &x509.Certificate{SerialNumber: c.IDevID.SerialNumber, Subject: c.IDevID.Subject, NotBefore: c.IDevID.NotBefore, NotAfter: c.IDevID.NotAfter,
				KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
			c.IDevID = must(fleet.Issue(template, s.CA.DeviceCA(), c.IDevID.PublicKey, s.DeviceCAKey(t)))(t)
			return c
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			conn := must(s.client.Dial(t.Context(), c.happen(t, s).TLS(s.victim)))(t)
			defer conn.Close()
			a := must(conn.Do(t.Context(), "GET", "/device", nil))(t)
			refused(t, a, 403, "certificate-not-active")
			var p struct{ Certificate string }
			if err := json.Unmarshal(a.Body, &p); err != nil || p.Certificate != c.want {
				t.Errorf("%s: want %s", a.Body, c.want)
			}
		})
	}
}

func (s *scene) deleteDevice(t *testing.T, id string) {
	t.Helper()
	if err := s.Store.DeleteDevice(t.Context(), s.Owner.ID, id, s.Now()); err != nil {
		t.Fatal(err)
	}
}
