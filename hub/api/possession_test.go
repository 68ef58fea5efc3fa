package api_test

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/internal/brief"
	"gangway/internal/fleet"
)

// A device must prove possession of its TPM key on each connection, so the hub does not resume TLS
// sessions.

// removable is a TPM key that the test can remove, and that counts its signatures.
type removable struct {
	crypto.Signer
	gone       bool
	signatures int
}

func (k *removable) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	if k.gone {
		return nil, errors.New("the TPM is not here")
	}
	k.signatures++
	return k.Signer.Sign(r, digest, o)
}

// visitor is a client with a device's certificate and a cache of TLS sessions.
type visitor struct {
	t      *testing.T
	config *tls.Config
	url    string
}

// visit makes one connection and sends requests on it. It returns the answers, which are nil if the
// handshake failed, and whether the TLS session was resumed.
func (v *visitor) visit(requests ...string) (answers []*fleet.Answer, resumed bool) {
	v.t.Helper()
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: v.config, MaxConnsPerHost: 1}}
	defer c.CloseIdleConnections()
	for _, q := range requests {
		method, path, _ := strings.Cut(q, " ")
		req := must(http.NewRequestWithContext(v.t.Context(), method, v.url+path, strings.NewReader("{}")))(v.t)
		resp, err := c.Do(req)
		if err != nil {
			answers = append(answers, nil)
			continue
		}
		body := must(io.ReadAll(resp.Body))(v.t)
		resp.Body.Close()
		resumed = resp.TLS.DidResume
		answers = append(answers, &fleet.Answer{Status: resp.StatusCode, Body: body})
	}
	return answers, resumed
}

// serve serves the hub's handler on another TLS listener and returns its URL.
func serve(t *testing.T, server *api.Server, config *tls.Config) (url string) {
	t.Helper()
	l := must(tls.Listen("tcp", "127.0.0.1:0", config))(t)
	h := &http.Server{Handler: server.Handler()}
	go h.Serve(l)
	t.Cleanup(func() { h.Close() })
	return "https://" + l.Addr().String()
}

var devicesOwn = []string{"GET /device", "POST /device/secret", "POST /auth/x509/login"}

// An attacker has copied a device's TLS session tickets, but does not have the device's TPM key.
// The hub does not resume the session.
func TestCopiedTLSSessionIsNotTheDevice(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	certs := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	lax := must(api.New(api.Config{Store: s.Store, CA: s.CA, Onboard: s.Service, Objects: s.Objects, Log: s.Log(), Now: s.Now, PublicURL: s.URL, Names: []string{"127.0.0.1"}, TLS12: true}))(t)
	for _, tc := range []struct {
		name, url string
		version   uint16
	}{{"TLS 1.3", s.URL, tls.VersionTLS13}, {"TLS 1.2", serve(t, lax, lax.TLSConfig()), tls.VersionTLS12}} {
		t.Run(tc.name, func(t *testing.T) {
			tpm := &removable{Signer: s.victim.IDevID.Private}
			cert := certs.TLS(s.victim)
			cert.PrivateKey = tpm
			v := &visitor{t: t, url: tc.url, config: &tls.Config{
				RootCAs: s.client.Roots, MaxVersion: tc.version, ClientSessionCache: tls.NewLRUClientSessionCache(4), Time: s.Now,
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
			}}
			for n := 1; n <= 2; n++ {
				answers, resumed := v.visit(devicesOwn...)
				for i, a := range answers {
					if a == nil || a.Status != 200 {
						t.Fatalf("%s with the TPM: %s", devicesOwn[i], brief.Of(a))
					}
				}
				if resumed || tpm.signatures != n {
					t.Errorf("connection %d: resumed %v, %d signatures", n, resumed, tpm.signatures)
				}
			}
			tpm.gone = true
			answers, _ := v.visit(devicesOwn...)
			for i, a := range answers {
				if a != nil {
					t.Errorf("%s without the TPM: %d %s", devicesOwn[i], a.Status, a.Body)
				}
			}
		})
	}
}

// A program may serve the hub's handler on its own TLS listener, and this listener may resume TLS
// sessions. Requests in a resumed session get no access to the routes for devices.
func TestResumedSessionOfAnotherListenerIsRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	certs := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	tickets := s.Server.TLSConfig()
	tickets.SessionTicketsDisabled, tickets.VerifyConnection = false, nil
	cert := certs.TLS(s.victim)
	v := &visitor{t: t, url: serve(t, s.Server, tickets), config: &tls.Config{
		RootCAs: s.client.Roots, ClientSessionCache: tls.NewLRUClientSessionCache(4),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
	}}
	if answers, resumed := v.visit("GET /device"); resumed || answers[0].Status != 200 {
		t.Fatalf("%s, resumed %v", brief.Of(answers[0]), resumed)
	}
	answers, resumed := v.visit(append(devicesOwn, "POST /onboard/activate", "GET /device/boot", "GET /healthz")...)
	if !resumed {
		t.Fatal("the session was not resumed, so this test checks nothing")
	}
	for _, a := range answers {
		refused(t, a, 403, "tls-resumed")
	}
	// With the hub's own TLS configuration, the handshake of a resumed session fails, even if
	// session tickets are enabled.
	strict := s.Server.TLSConfig()
	strict.SessionTicketsDisabled = false
	v.url, v.config.ClientSessionCache = serve(t, s.Server, strict), tls.NewLRUClientSessionCache(4)
	v.visit("GET /device")
	if answers, _ := v.visit("GET /device"); answers[0] != nil {
		t.Errorf("%d %s", answers[0].Status, answers[0].Body)
	}
}

// After a device was deleted or has onboarded again, its old credentials give no access: an open
// connection, URLs of objects, an access token and a device secret.
func TestNothingOutlivesTheDevice(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		bearer int // expected status with the token
		end    func(*scene, *fleet.Device, string)
	}{
		{"deleted", 401, func(s *scene, _ *fleet.Device, id string) {
			if err := s.Store.DeleteDevice(t.Context(), s.Owner.ID, id, s.Now()); err != nil {
				t.Fatal(err)
			}
		}},
		{"superseded", 401, func(s *scene, d *fleet.Device, _ string) { must(d.Onboard(t.Context(), s.client, s.tok))(t) }},
		{"cloned, by its owner's word", 403, func(s *scene, _ *fleet.Device, id string) {
			want[api.ClonedView](s.person(t, "ada"), "PUT", "/devices/"+id+"/cloned", `{"decision":"two"}`, 200)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newScene(t)
			certs := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
			id := s.deviceOf(t, s.victim)
			p := s.asDevice(t, s.victim, certs)
			stored := announce(p, "/objects/", "kernel", "content", 200)
			if status, body, _ := send(p, "PUT", stored.PutURL, "content"); status != 200 {
				t.Fatalf("%d %s", status, body)
			}
			open := announce(p, "/objects/", "other", "another content", 200)
			secret := want[api.SecretView](p, "POST", "/device/secret", nil, 200)
			token := want[struct{ Token string }](p, "POST", "/auth/x509/login", nil, 200).Token
			bySecret := want[struct{ Token string }](s.person(t, ""), "POST", "/auth/login", map[string]string{"username": secret.PRN, "password": secret.Secret}, 200).Token

			tc.end(s, s.victim, id)

			// The old connection is still open, but the hub checks the device again for each
			// request on it.
			for _, q := range [][2]string{{"GET", "/device"}, {"GET", "/device/boot"}, {"POST", "/device/secret"}, {"PUT", "/device/secret"}, {"POST", "/auth/x509/login"}, {"PATCH", "/device/meta"}, {"POST", "/objects/"}, {"GET", "/devices/" + id}} {
				if status, body := p.do(q[0], q[1], "{}"); status != 403 {
					t.Errorf("%s %s: %d %s", q[0], q[1], status, body)
				}
			}
			if status, body := p.do("POST", "/onboard/activate", `{"proof":"AAAA"}`); status != 403 {
				t.Errorf("activation: %d %s", status, body)
			}
			if a := must(s.victim.Activate(t.Context(), s.client, certs))(t); a.Status != 403 && a.Status != 410 {
				t.Errorf("activation, with the proof: %d %s", a.Status, a.Body)
			}
			for method, address := range map[string]string{"GET": stored.GetURL, "PUT": open.PutURL} {
				if status, body, _ := send(s.person(t, ""), method, address, "another content"); status != 410 || !bytes.Contains(body, []byte("address-revoked")) {
					t.Errorf("%s of an object's address: %d %s", method, status, body)
				}
			}
			for name, bearer := range map[string]string{"certificate": token, "secret": bySecret} {
				holder := s.person(t, "")
				holder.token = bearer
				if status, body := holder.do("GET", "/devices/"+id, nil); status != tc.bearer {
					t.Errorf("a token by the %s: %d %s", name, status, body)
				}
			}
			want[api.Problem](s.person(t, ""), "POST", "/auth/login", map[string]string{"username": secret.PRN, "password": secret.Secret}, tc.bearer)
		})
	}
}

// If an owner deletes a device during an upload of that device, no object remains when the upload
// ends.
func TestUploadThatOutlivesTheDeviceLeavesNothing(t *testing.T) {
	t.Parallel()
	s := newSceneOnDisk(t)
	certs := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	id := s.deviceOf(t, s.victim)
	p := s.asDevice(t, s.victim, certs)
	content := "first half, second half"
	o := announce(p, "/objects/", "x", content, 200)
	body, pipe := io.Pipe()
	req := must(http.NewRequestWithContext(t.Context(), "PUT", o.PutURL, body))(t)
	req.ContentLength = int64(len(content))
	done, client := make(chan int, 1), s.person(t, "").client
	go func() {
		resp, err := client.Do(req)
		if err != nil {
			done <- 0
			return
		}
		resp.Body.Close()
		done <- resp.StatusCode
	}()
	must(io.WriteString(pipe, content[:11]))(t)
	time.Sleep(50 * time.Millisecond) // wait until the hub has begun to read
	if err := s.Store.DeleteDevice(t.Context(), s.Owner.ID, id, s.Now()); err != nil {
		t.Fatal(err)
	}
	must(io.WriteString(pipe, content[11:]))(t)
	pipe.Close()
	if status := <-done; status != 410 {
		t.Errorf("%d", status)
	}
	if status, answer := s.person(t, "ada").do("GET", "/objects/"+o.Sum, nil); status != 404 {
		t.Errorf("%d %s", status, answer)
	}
}

// Object URLs that the hub gave a person in a session stop working when the session ends.
func TestObjectAddressEndsWithItsSession(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	o := want[api.ObjectView](f.ada, "GET", "/objects/"+f.contentSum, nil, 200)
	other := want[api.ObjectView](f.person(t, "ada"), "GET", "/objects/"+f.contentSum, nil, 200)
	want[map[string]any](f.ada, "POST", "/auth/logout", nil, 200)
	if status, _, _ := send(f.person(t, ""), "GET", o.GetURL, ""); status != 410 {
		t.Errorf("%d", status)
	}
	if status, body, _ := send(f.person(t, ""), "GET", other.GetURL, ""); status != 200 || string(body) != f.content {
		t.Errorf("another session's: %d", status)
	}
}
