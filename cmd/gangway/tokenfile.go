package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"time"

	"gangway/hub/api"
	"gangway/wire"
)

// tokenFile is the destination of a secret, such as a join token's file: a new file of mode 0600,
// or standard output.
type tokenFile struct {
	w    io.Writer
	file *os.File // nil for standard output, and after a call of `finish`
}

// newTokenFile creates a file at `path`, but never overwrites an existing file. If `path` is empty,
// the output is `stdout`. Call newTokenFile before the hub creates the token: if the folder is not
// writable, the command then fails before a token exists.
func newTokenFile(stdout io.Writer, path string) (*tokenFile, error) {
	if path == "" {
		return &tokenFile{w: stdout}, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%s exists already and may contain a join token: choose another name", path)
	}
	if err != nil {
		return nil, err
	}
	return &tokenFile{w: f, file: f}, nil
}

func (t *tokenFile) write(v any) error {
	e := json.NewEncoder(t.w)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return err
	}
	return t.finish()
}

// writeLine writes a text and a line break, then finishes the file.
func (t *tokenFile) writeLine(text string) error {
	if _, err := fmt.Fprintln(t.w, text); err != nil {
		return err
	}
	return t.finish()
}

// finish syncs and closes the file. If the output is standard output, finish does nothing.
func (t *tokenFile) finish() error {
	if t.file == nil {
		return nil
	}
	err := errors.Join(t.file.Sync(), t.file.Close())
	if err == nil {
		t.file = nil
	}
	return err
}

// discard removes the file if the method `finish` has not succeeded.
func (t *tokenFile) discard() {
	if t.file != nil {
		t.file.Close()
		os.Remove(t.file.Name())
	}
}

// tokenState returns the state of a join token: "valid", or the reason why devices cannot use the
// join token.
func tokenState(t api.JoinTokenView, now time.Time) string {
	switch {
	case t.Disabled:
		return "disabled"
	case !t.Expires.After(now):
		return "expired"
	case t.MaxUses > 0 && t.Uses >= t.MaxUses:
		return "used up"
	}
	return "valid"
}

// warnToken prints a warning if the machines of an image cannot onboard with the image's token
// file. If the user is signed in to the hub that the token file names, warnToken asks that hub for
// the state of the join token.
func (a *app) warnToken(ctx context.Context, file []byte) {
	t, err := wire.ParseTokenFile(file)
	if err != nil {
		return // the build itself returns the error of this file
	}
	if u, err := url.Parse(t.Hub); err == nil {
		if ip := net.ParseIP(u.Hostname()); u.Hostname() == "localhost" || ip != nil && ip.IsLoopback() {
			a.note("Warning: the join token's hub is %s, an address at which each machine reaches only itself. Start the hub with --url https://ADDRESS that machines can reach, and create a new join token.", t.Hub)
		}
	}
	s, err := loadSignIn(ctx)
	if err != nil || s.hubName() != t.HubName {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	tokens, err := allTokens(ctx, func(ctx context.Context, method, path string, in any) (page []api.JoinTokenView, err error) {
		return page, s.do(ctx, method, path, in, &page)
	})
	if err != nil {
		return
	}
	for _, v := range tokens {
		if state := tokenState(v, time.Now()); v.ID == t.ID && state != "valid" {
			a.note("Warning: the join token %s is %s: no machine can onboard with it. Create a new join token with 'gangway token create'.", v.ID, state)
		}
	}
}
