package api_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"gangway/hub/api"
	"gangway/internal/hubtest"
)

// signInFrom tries to sign in with a password, from the loopback address `from`.
func (s *scene) signInFrom(t testing.TB, from, name, password string) (int, http.Header) {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c := &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{RootCAs: s.client.Roots}}}
	defer c.CloseIdleConnections()
	body := must(json.Marshal(map[string]string{"username": name, "password": password}))(t)
	req := must(http.NewRequestWithContext(context.Background(), "POST", s.URL+"/auth/login", bytes.NewReader(body)))(t)
	resp, err := c.Do(req)
	if err != nil {
		t.Error(err)
		return 0, nil
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Header
}

// During a flood of wrong passwords from many addresses, a person who has signed in before from
// their present address can still sign in.
func TestFloodOfSignInsKeepsNobodyOut(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("80 password hashes; TestQueueServesTheKnownBeforeStrangers tests the queue that keeps the rule")
	}
	s := newSceneOnDisk(t)
	s.Server.RealPasswordCost()
	if status, _ := s.signInFrom(t, "127.0.2.1", "ada", hubtest.Password); status != 200 {
		t.Fatalf("%d", status)
	}
	var flood sync.WaitGroup
	for i := range 80 {
		flood.Go(func() {
			status, header := s.signInFrom(t, fmt.Sprintf("127.0.1.%d", 1+i), fmt.Sprintf("nobody-%d", i), "a wrong password")
			if status != 401 && (status != 503 || header.Get("Retry-After") == "") {
				t.Errorf("a sign-in of the flood: %d", status)
			}
		})
	}
	if status, _ := s.signInFrom(t, "127.0.2.1", "ada", hubtest.Password); status != 200 {
		t.Errorf("the good password: %d", status)
	}
	flood.Wait()
}

// The hub limits guesses at one account's password, even if they come from many addresses. The
// account's owner can still sign in from the address of an earlier sign-in.
func TestPasswordsForOneAccountAreBounded(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	if status, _ := s.signInFrom(t, "127.0.2.1", "ada", hubtest.Password); status != 200 {
		t.Fatalf("%d", status)
	}
	refused := 0
	for i := range 30 {
		name := []string{"ada", "ADA"}[i%2]
		if status, _ := s.signInFrom(t, fmt.Sprintf("127.0.3.%d", 1+i), name, "a wrong password"); status == 429 {
			refused++
		}
	}
	if refused < 9 {
		t.Errorf("%d of 30 wrong passwords were refused", refused)
	}
	if status, _ := s.signInFrom(t, "127.0.4.1", "ada", hubtest.Password); status != 429 {
		t.Errorf("from a new address: %d", status)
	}
	if status, _ := s.signInFrom(t, "127.0.2.1", "ada", hubtest.Password); status != 200 {
		t.Errorf("from where she signed in before: %d", status)
	}
	// Guesses for an account that does not exist are limited in the same way, so that the limit
	// does not reveal which accounts exist.
	for i := range 30 {
		s.signInFrom(t, fmt.Sprintf("127.0.3.%d", 1+i), "nobody", "a wrong password")
	}
	if status, _ := s.signInFrom(t, "127.0.4.2", "nobody", "a wrong password"); status != 429 {
		t.Errorf("no such account: %d", status)
	}
}

// Devices and people at one site share one network address, but the sign-ins of devices do not use
// up the rate limit for people.
func TestDevicesDoNotKeepPeopleOut(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	secret := want[api.SecretView](f.boat, "POST", "/device/secret", nil, 200)
	for range 40 {
		if status, _ := f.signInFrom(t, "127.0.0.1", secret.PRN, secret.Secret); status != 200 {
			t.Fatalf("a device: %d", status)
		}
	}
	if status, _ := f.signInFrom(t, "127.0.0.1", "ada", hubtest.Password); status != 200 {
		t.Errorf("a person: %d", status)
	}
}
