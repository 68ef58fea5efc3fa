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
	"time"

	"gangway/wire"
)

// Pantavisor is where Pantavisor keeps its things.
type Pantavisor struct {
	// Config is its pantahub.config, which it reads at its start: a device that
	// has a PRN there is a claimed one.
	Config string
	// Unclaimed is the file that it has in the place of it before; what it says
	// of other things is kept.
	Unclaimed string
}

// Pantavisor's keys for a device's credentials, and their older names.
const (
	keyHost, keyPort          = "PH_CREDS_HOST", "PH_CREDS_PORT"
	keyID, keyPRN, keySecret  = "PH_CREDS_ID", "PH_CREDS_PRN", "PH_CREDS_SECRET"
	keyAutoToken, keyAutoTok2 = "PH_FACTORY_AUTOTOK", "factory.autotok"
)

var olderKeys = map[string]string{
	"creds.host": keyHost, "creds.port": keyPort, "creds.id": keyID, "creds.prn": keyPRN, "creds.secret": keySecret,
}

// Forms of what the hub sends and a line takes: nothing that could end a line
// or begin another.
var (
	prnForm    = regexp.MustCompile(`^prn:::devices:/[0-9a-f]{24}$`)
	secretForm = regexp.MustCompile(`^[A-Za-z0-9+/=_-]{16,200}$`)
	hostForm   = regexp.MustCompile(`^[A-Za-z0-9.:-]{1,253}$`)
)

// maxConfig bounds what is read of Pantavisor's files, in bytes.
const maxConfig = 64 << 10

// RegisterPantavisor gives Pantavisor this device's credentials: a short-lived
// secret in its pantahub.config. It reports whether Pantavisor has to be
// started anew to read it. What is there already, and good, is kept.
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

// newSecret gets one and writes it.
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
	// The join token is used, and nothing that a copied disk should have.
	config = config.without(keyAutoToken).without(keyAutoTok2)
	dir := &folder{path: filepath.Dir(p.Config)}
	if err := dir.write(filepath.Base(p.Config), config.bytes()); err != nil {
		return err
	}
	a.say("pantavisor", "Pantavisor's credentials are in %s.", p.Config)
	return nil
}

// credentials is the configuration with a hub's answer to POST /device/secret.
func (c config) credentials(raw []byte, address, device string) (config, error) {
	var answer struct {
		PRN    string `json:"prn"`
		Secret string `json:"secret"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, fmt.Errorf("agent: the hub's secret cannot be read: %w", err)
	}
	host, port, err := hostAndPort(address)
	if err != nil {
		return nil, err
	}
	if !prnForm.MatchString(answer.PRN) || answer.PRN != wire.DevicePRN+device || !secretForm.MatchString(answer.Secret) {
		return nil, errors.New("agent: what the hub sent is no secret of this device that Pantavisor's file could hold")
	}
	return c.with(keyHost, host).with(keyPort, port).with(keyID, device).with(keyPRN, answer.PRN).with(keySecret, answer.Secret), nil
}

// keepSecret has the hub make a secret good for another while. false: it knows
// it no more.
func (s *session) keepSecret(ctx context.Context, secret string) (bool, error) {
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

// KeepPantavisor makes the secret in Pantavisor's file good for another while;
// where the hub does not know it any more there is a new one, and Pantavisor
// has to be started anew.
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
		return false, nil // not registered yet
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

// writeAddress writes the hub's address into Pantavisor's configuration, if it
// has another one. It reports whether it had.
func (a *Agent) writeAddress(s *session, p Pantavisor, c config) (changed bool, err error) {
	host, port, err := hostAndPort(s.h.url())
	if err != nil || c.get(keyHost) == host && c.get(keyPort) == port {
		return false, err
	}
	dir := &folder{path: filepath.Dir(p.Config)}
	if err := dir.write(filepath.Base(p.Config), c.with(keyHost, host).with(keyPort, port).bytes()); err != nil {
		return false, err
	}
	a.say("pantavisor", "The hub's address in %s is %s now.", p.Config, s.h.url())
	return true, nil
}

// hostAndPort are those of a hub's address, as Pantavisor's file takes them.
func hostAndPort(address string) (host, port string, err error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", "", fmt.Errorf("agent: %w", err)
	}
	if port = u.Port(); port == "" {
		port = "443"
	}
	if !hostForm.MatchString(u.Hostname()) {
		return "", "", fmt.Errorf("agent: Pantavisor's file cannot hold the hub's address %s", address)
	}
	return u.Hostname(), port, nil
}

// LoginPantavisor returns what a sign-in answers, {"token":"..."}: a token that
// the TPM's connection got. It also keeps Pantavisor's secret good, for nothing
// else of Pantavisor's comes by here later.
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
	if err := json.Unmarshal(raw, &token); err != nil || len(token.Token) > maxToken || !tokenForm.MatchString(token.Token) {
		return nil, false, errors.New("agent: the hub's token is none that Pantavisor could send")
	}
	if answer, err = json.Marshal(token); err != nil {
		return nil, false, err
	}
	restart, err = a.keep(ctx, s, p)
	if err != nil {
		a.setWaiting("Pantavisor's secret: " + err.Error()) // the token is good all the same
	}
	return answer, restart, nil
}

// tokenForm is a compact JWS that fits the buffer that Pantavisor makes a
// header in.
var tokenForm = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

const maxToken = 1016 // bytes

// RestartPantavisor has Pantavisor start the machine anew, over its control
// socket. It answers late where it waits for the caller, and not while an
// update is under way: it is asked until ctx ends.
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
			return fmt.Errorf("agent: Pantavisor does not start anew; reboot the machine: %w", err)
		case <-time.After(5 * time.Second):
		}
	}
}

// config is a file of key=value lines, in their order. Lines that are something
// else stay as they are.
type config []string

func readConfig(path string) (config, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("agent: Pantavisor's configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(text) > maxConfig {
		err = fmt.Errorf("%s has more than %d bytes", path, maxConfig)
	}
	if err != nil {
		return nil, fmt.Errorf("agent: Pantavisor's configuration: %w", err)
	}
	var c config
	for line := range strings.Lines(string(text)) {
		c = append(c, strings.TrimRight(line, "\r\n"))
	}
	return c, nil
}

// keyOf is a line's key by its present name.
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

// get returns the last value of a key, which is the one that counts.
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
