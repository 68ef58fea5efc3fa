package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"gangway/wire"
)

// Pantavisor contains the paths of Pantavisor's configuration files.
type Pantavisor struct {
	// Config is the path of pantahub.config, which Pantavisor reads at its start. If this file
	// contains a PRN (Pantacor resource name), Pantavisor considers the device claimed.
	Config string
	// Unclaimed is the path of the configuration file that Pantavisor uses until the device is
	// claimed. Its settings, except the credentials, are copied to Config.
	Unclaimed string
}

// The names of the settings that contain a device's credentials in Pantavisor's configuration.
// olderKeys maps the older names of these settings to the current names.
const (
	keyHost, keyPort          = "PH_CREDS_HOST", "PH_CREDS_PORT"
	keyID, keyPRN, keySecret  = "PH_CREDS_ID", "PH_CREDS_PRN", "PH_CREDS_SECRET"
	keyAutoToken, keyAutoTok2 = "PH_FACTORY_AUTOTOK", "factory.autotok"
)

var olderKeys = map[string]string{
	"creds.host": keyHost, "creds.port": keyPort, "creds.id": keyID, "creds.prn": keyPRN, "creds.secret": keySecret,
}

// These patterns are the forms that the hub's values must have before they are written into a line
// of Pantavisor's file. A value that matches its pattern can neither end the line nor begin another
// one.
var (
	prnForm    = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^prn:::devices:/[0-9a-f]{24}$`) })
	secretForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9+/=_-]{16,200}$`) })
	hostForm   = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9.:-]{1,253}$`) })
)

// maxConfig is the maximum size of each of Pantavisor's configuration files, in bytes.
const maxConfig = 64 << 10

// RegisterPantavisor writes this device's credentials, with a short-lived secret, into Pantavisor's
// pantahub.config. If the file already has a secret that the hub accepts, RegisterPantavisor keeps
// that secret. `restart` reports whether Pantavisor must restart to read the file again.
func (a *Agent) RegisterPantavisor(ctx context.Context, p Pantavisor) (restart bool, err error) {
	s, err := a.dial(ctx)
	if err != nil {
		return false, err
	}
	defer s.close()
	config, err := readConfig(p.Config)
	if err != nil {
		return false, err
	}
	if config.get(keyPRN) == wire.DevicePRN+a.state.DeviceID {
		kept, err := s.keepSecret(ctx, config.get(keySecret))
		if err != nil {
			return false, err
		}
		if kept {
			_, err := a.writeAddress(s, p, config)
			return true, err
		}
	}
	return true, a.newSecret(ctx, s, p, config)
}

// newSecret gets a new secret from the hub and writes it into Pantavisor's file.
func (a *Agent) newSecret(ctx context.Context, s *session, p Pantavisor, config config) error {
	if len(config) == 0 {
		var err error
		if config, err = readConfig(p.Unclaimed); err != nil {
			return err
		}
	}
	raw, err := s.Do(ctx, http.MethodPost, "/device/secret", nil, 64<<10)
	if err != nil {
		return err
	}
	config, err = config.credentials(raw, s.h.url(), a.state.DeviceID)
	if err != nil {
		return err
	}
	// Remove the join token: the device does not need it any more, and a copy of the disk must not
	// contain it.
	config = config.without(keyAutoToken).without(keyAutoTok2)
	dir := &folder{path: filepath.Dir(p.Config)}
	if err := dir.write(filepath.Base(p.Config), config.bytes()); err != nil {
		return err
	}
	a.say("pantavisor", "Wrote Pantavisor's credentials to %s.", p.Config)
	return nil
}

// The method `credentials` returns a copy of `c` with the credentials from `raw`, the hub's answer
// to POST /device/secret.
func (c config) credentials(raw []byte, address, device string) (config, error) {
	var answer struct {
		PRN    string `json:"prn"`
		Secret string `json:"secret"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, fmt.Errorf("agent: reading the hub's secret: %w", err)
	}
	host, port, err := hostAndPort(address)
	if err != nil {
		return nil, err
	}
	if !prnForm().MatchString(answer.PRN) || answer.PRN != wire.DevicePRN+device || !secretForm().MatchString(answer.Secret) {
		return nil, errors.New("agent: the hub's answer is not a secret of this device, or does not fit into Pantavisor's file")
	}
	return c.with(keyHost, host).with(keyPort, port).with(keyID, device).with(keyPRN, answer.PRN).with(keySecret, answer.Secret), nil
}

// keepSecret asks the hub to renew a secret of this device. `kept` is false if the hub does not
// know the secret.
func (s *session) keepSecret(ctx context.Context, secret string) (kept bool, err error) {
	body, err := json.Marshal(map[string]string{"secret": secret})
	if err != nil {
		return false, err
	}
	_, err = s.Do(ctx, http.MethodPut, "/device/secret", body, 64<<10)
	var refused *Refused
	if errors.As(err, &refused) && refused.Status == http.StatusConflict {
		return false, nil
	}
	return err == nil, err
}

// KeepPantavisor renews the secret in Pantavisor's file, so that it does not expire. If the hub
// does not know that secret, KeepPantavisor writes a new one. `restart` reports whether Pantavisor
// must restart, because the secret or the hub's address has changed.
func (a *Agent) KeepPantavisor(ctx context.Context, p Pantavisor) (restart bool, err error) {
	s, err := a.dial(ctx)
	if err != nil {
		return false, err
	}
	defer s.close()
	return a.keep(ctx, s, p)
}

func (a *Agent) keep(ctx context.Context, s *session, p Pantavisor) (restart bool, err error) {
	config, err := readConfig(p.Config)
	if err != nil {
		return false, err
	}
	if config.get(keyPRN) == "" {
		return false, nil // RegisterPantavisor has not been called yet
	}
	kept, err := s.keepSecret(ctx, config.get(keySecret))
	if err != nil {
		return false, err
	}
	if kept {
		return a.writeAddress(s, p, config)
	}
	return true, a.newSecret(ctx, s, p, config)
}

// writeAddress updates the hub's address in Pantavisor's configuration. It reports
// whether the address changed.
func (a *Agent) writeAddress(s *session, p Pantavisor, c config) (changed bool, err error) {
	host, port, err := hostAndPort(s.h.url())
	if err != nil || c.get(keyHost) == host && c.get(keyPort) == port {
		return false, err
	}
	dir := &folder{path: filepath.Dir(p.Config)}
	if err := dir.write(filepath.Base(p.Config), c.with(keyHost, host).with(keyPort, port).bytes()); err != nil {
		return false, err
	}
	a.say("pantavisor", "Changed the hub's address in %s to %s.", p.Config, s.h.url())
	return true, nil
}

// hostAndPort splits a hub's address into the host and the port, as Pantavisor's file has them.
func hostAndPort(address string) (host, port string, err error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", "", fmt.Errorf("agent: %w", err)
	}
	if port = u.Port(); port == "" {
		port = "443"
	}
	if !hostForm().MatchString(u.Hostname()) {
		return "", "", fmt.Errorf("agent: the host in the hub's address %s cannot be written to Pantavisor's configuration; use a DNS name or an IP address of at most 253 letters, digits, '.', ':' and '-'", address)
	}
	return u.Hostname(), port, nil
}

// LoginPantavisor gets an access token for Pantavisor on a connection with the IDevID certificate.
// It returns the answer that Pantavisor expects, {"token":"..."}. It also renews Pantavisor's
// secret, because after the registration Pantavisor calls no other hook that could do so.
func (a *Agent) LoginPantavisor(ctx context.Context, p Pantavisor) (answer []byte, restart bool, err error) {
	s, err := a.dial(ctx)
	if err != nil {
		return nil, false, err
	}
	defer s.close()
	raw, err := s.Do(ctx, http.MethodPost, "/auth/x509/login", nil, 4<<10)
	if err != nil {
		return nil, false, err
	}
	var token struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(raw, &token); err != nil || len(token.Token) > maxToken || !tokenForm().MatchString(token.Token) {
		return nil, false, errors.New("agent: the hub's access token is malformed or too long for Pantavisor")
	}
	if answer, err = json.Marshal(token); err != nil {
		return nil, false, err
	}
	restart, err = a.keep(ctx, s, p)
	if err != nil {
		a.setWaiting("Extending Pantavisor's secret failed: " + err.Error()) // do not fail: the access token is valid
	}
	return answer, restart, nil
}

// tokenForm is the form of a compact JWS.
var tokenForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9_.-]+$`) })

const maxToken = 1016 // bytes; the longest token that fits into Pantavisor's buffer for a header

// RestartPantavisor asks Pantavisor, over its control socket, to reboot the machine. It retries
// until ctx ends, because Pantavisor answers late while it waits for a hook, and refuses to reboot
// during an update.
func RestartPantavisor(ctx context.Context, socket string) error {
	client := &http.Client{
		Timeout: 2 * time.Minute,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}},
	}
	defer client.CloseIdleConnections()
	const command = `{"op":"REBOOT_DEVICE","payload":"the device has its credentials"}`
	for {
		err := func() error {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost/commands", strings.NewReader(command))
			if err != nil {
				return err
			}
			req.Header.Set("Content-Type", "application/json")
			resp, err := client.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				said, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
				return fmt.Errorf("agent: Pantavisor answers %s: %s", resp.Status, bytes.TrimSpace(said))
			}
			return nil
		}()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("agent: restarting Pantavisor failed; reboot the machine: %w", err)
		case <-time.After(5 * time.Second):
		}
	}
}

// config contains the lines of a configuration file. A setting is a line of the form key=value. All
// other lines stay unchanged.
type config []string

func readConfig(path string) (config, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("agent: reading Pantavisor's configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(text) > maxConfig {
		err = fmt.Errorf("%s has more than %d bytes", path, maxConfig)
	}
	if err != nil {
		return nil, fmt.Errorf("agent: reading Pantavisor's configuration: %w", err)
	}
	var c config
	for line := range strings.Lines(string(text)) {
		c = append(c, strings.TrimRight(line, "\r\n"))
	}
	return c, nil
}

// keyOf returns a line's key, or "" if the line is not key=value. For the older name of a key,
// keyOf returns the name that Pantavisor uses today.
func keyOf(line string) string {
	key, _, found := strings.Cut(line, "=")
	if !found {
		return ""
	}
	if name, ok := olderKeys[strings.ToLower(key)]; ok {
		return name
	}
	return key
}

// get returns the value of a key. If several lines have the key, the last line is in effect.
func (c config) get(key string) (value string) {
	for _, line := range c {
		if strings.EqualFold(keyOf(line), key) {
			_, value, _ = strings.Cut(line, "=")
		}
	}
	return value
}

func (c config) without(key string) config {
	var kept config
	for _, line := range c {
		if !strings.EqualFold(keyOf(line), key) {
			kept = append(kept, line)
		}
	}
	return kept
}

func (c config) with(key, value string) config { return append(c.without(key), key+"="+value) }

func (c config) bytes() []byte {
	if len(c) == 0 {
		return nil
	}
	return []byte(strings.Join(c, "\n") + "\n")
}
