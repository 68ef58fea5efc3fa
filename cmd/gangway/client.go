package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"gangway/hub/api"
	"gangway/internal/version"
)

// signIn is the content of a context's file: the hub, the CA certificate with which the hub is
// verified, and the token. The file has mode 0600.
type signIn struct {
	Hub   string `json:"hub"`
	HubCA string `json:"hub-ca"` // PEM
	Nick  string `json:"nick"`
	Token string `json:"token"`          // an access token of a session, or an API token
	Demo  int    `json:"demo,omitempty"` // the process id of the demo that made the context

	context string // name of the context
}

// client returns an HTTP client that trusts only the hub's CA.
func (s *signIn) client() (*http.Client, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(s.HubCA)) {
		return nil, errors.New("the hub's CA cannot be read; sign in again")
	}
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots},
	}}, nil
}

// rawBody is a request body that the method `do` sends unchanged, not as JSON.
type rawBody []byte

// maxAnswer is the largest size of an answer, in bytes. A page of devices or join tokens is
// smaller, even if each of them has as much metadata as the hub allows.
const maxAnswer = 96 << 20

// do sends a request. The argument `in` is the body: a rawBody is sent unchanged, any other value
// as JSON, and nil means no body. It decodes the answer's JSON into `out`. If `out` is nil, it
// ignores the answer.
func (s *signIn) do(ctx context.Context, method, path string, in, out any) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	var body io.Reader
	if raw, ok := in.(rawBody); ok {
		body = bytes.NewReader(raw)
	} else if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.Hub+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "gangway/"+version.Current.Version)
	req.Header.Set("Accept", "application/json")
	if s.Token != "" {
		req.Header.Set("Authorization", "Bearer "+s.Token)
	}
	resp, err := c.Do(req)
	if err != nil {
		var unknown x509.UnknownAuthorityError
		var otherName x509.HostnameError
		switch {
		case errors.As(err, &unknown):
			return fmt.Errorf("the server at %s is not the expected hub, because another CA issued its certificate: check the URL, or sign in again", s.Hub)
		case errors.As(err, &otherName):
			return fmt.Errorf("the hub's certificate is not valid for the name in %s: use the URL that 'gangway serve' prints, or start the hub with --url", s.Hub)
		}
		return unreachable(s.Hub, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return err
	}
	if len(b) > maxAnswer {
		return fmt.Errorf("the hub's answer to %s %s is larger than %d MiB", method, path, maxAnswer>>20)
	}
	if resp.StatusCode != http.StatusOK {
		p := new(api.Problem)
		if json.Unmarshal(b, p) != nil || p.Code == "" {
			return fmt.Errorf("the hub answered %s", resp.Status)
		}
		return &hubError{*p}
	}
	if out == nil {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber() // keep numbers in metadata as they were written
	if err := dec.Decode(out); err != nil {
		return fmt.Errorf("the hub's answer cannot be read: %w", err)
	}
	return nil
}

// hubError is a refusal of the hub.
type hubError struct{ api.Problem }

func (e *hubError) Error() string { return fmt.Sprintf("%s %s (%s)", e.Message, e.Hint, e.Code) }

// unreachable returns the error "the hub cannot be reached". It removes the request's URL from
// `err`, because the message names the hub already.
func unreachable(hubURL string, err error) error {
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	return fmt.Errorf("the hub at %s cannot be reached: %w; is it running, and is the address right?", hubURL, err)
}

// call sends a request as the signed-in account, and returns the decoded answer.
func call[T any](ctx context.Context, method, path string, in any) (out T, err error) {
	s, err := loadSignIn(ctx)
	if err != nil {
		return out, err
	}
	err = s.do(ctx, method, path, in, &out)
	return out, err
}

// fetchCA downloads a hub's root certificate from the hub itself. It accepts the certificate only
// if the hash of its key is the expected hub name.
func fetchCA(ctx context.Context, hubURL, hubName string) (string, error) {
	c := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		// Accepting any certificate is safe here: the comparison with the hub name below verifies
		// the answer, and the request contains no secret.
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true},
	}}
	defer c.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, hubURL+"/hub-ca.pem", nil)
	if err != nil {
		return "", err
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", unreachable(hubURL, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return "", fmt.Errorf("the server at %s is not a Gangway hub: check the URL", hubURL)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	if got := hex.EncodeToString(sum[:]); got != hubName {
		return "", fmt.Errorf("the hub at %s does not have the name in --hub-name; its name is %s: check the URL and the name", hubURL, got)
	}
	return string(pem.EncodeToMemory(block)), nil
}
