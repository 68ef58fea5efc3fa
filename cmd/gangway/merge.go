package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"

	"gangway/image/factory"
)

// firstRevision merges pvr sources into the devices' first revision, in a temporary folder. The
// caller deletes that folder with the function `remove`. Without sources, the revision is nil.
func (a *app) firstRevision(ctx context.Context, sources []string) (r *factory.Revision, remove func(), err error) {
	if len(sources) == 0 {
		return nil, func() {}, nil
	}
	dir, err := os.MkdirTemp("", "gangway-merge")
	if err != nil {
		return nil, nil, err
	}
	remove = func() { os.RemoveAll(dir) }
	r, err = factory.Merge(ctx, dir, sources, trails{}, func(s string) { a.note("%s", s) })
	if err != nil {
		remove()
		return nil, nil, err
	}
	return r, remove, nil
}

// printable makes names safe for a terminal. If a name contains characters that are not printable,
// printable quotes the name and shortens it to 80 characters.
func printable(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		if out[i] = fmt.Sprintf("%.80q", n); out[i] == `"`+n+`"` {
			out[i] = n
		}
	}
	return out
}

// trails gives access to the trails (devices' lists of revisions) on the hub that the user is
// signed in to.
type trails struct{}

// Trail finds a trail by its name: https://HUB/trails/ID, https://HUB/trails/ID/steps/REV,
// https://HUB/OWNER/NICK or OWNER/NICK. Without REV, the revision is the trail's newest.
func (trails) Trail(ctx context.Context, name string) (factory.Trail, error) {
	s, err := loadSignIn(ctx)
	if err != nil {
		return nil, err
	}
	id, rev, err := s.locate(ctx, name)
	if err != nil {
		return nil, err
	}
	at := "/trails/" + url.PathEscape(id)
	if rev == "" {
		var remote struct {
			Step string `json:"step-get-url"`
		}
		if err := s.do(ctx, http.MethodGet, at+"/.pvrremote", nil, &remote); err != nil {
			return nil, err
		}
		rev = path.Base(remote.Step)
	}
	if rev == "" || len(rev) > 10 || strings.Trim(rev, "0123456789") != "" {
		return nil, fmt.Errorf("%.20q is not a revision number", rev)
	}
	return &trail{s, at + "/steps/" + rev, "revision " + rev + " of a trail"}, nil
}

// locate returns the id of a trail's device, and the revision number if the trail's name contains
// one.
func (s *signIn) locate(ctx context.Context, name string) (id, rev string, err error) {
	if rest, ok := strings.CutPrefix(name, "https://"); ok {
		hub, err := url.Parse(s.Hub)
		if err != nil {
			return "", "", err
		}
		host, at, _ := strings.Cut(rest, "/")
		if host != hub.Host { // never send the token to another hub
			return "", "", fmt.Errorf("you are signed in to %s, but this trail is on another hub: run 'gangway login' there first", s.Hub)
		}
		words := strings.Split(strings.TrimSuffix(at, "/"), "/")
		switch {
		case len(words) == 2 && words[0] == "trails":
			return words[1], "", nil
		case len(words) == 4 && words[0] == "trails" && words[2] == "steps":
			return words[1], words[3], nil
		case len(words) == 2:
			name = at
		default:
			return "", "", errors.New("a trail's address is https://HUB/trails/ID, https://HUB/trails/ID/steps/REV or https://HUB/OWNER/NICK")
		}
	}
	owner, nick, _ := strings.Cut(name, "/")
	var device struct {
		ID string `json:"id"`
	}
	err = s.do(ctx, http.MethodGet, "/devices/np/"+url.PathEscape(owner)+"/"+url.PathEscape(nick), nil, &device)
	return device.ID, "", err
}

// trail is one revision of a trail on the hub.
type trail struct {
	s    *signIn
	path string // path of the revision at the hub
	name string // name of the trail in messages
}

func (t *trail) String() string { return t.name }

func (t *trail) State(ctx context.Context) ([]byte, error) {
	var text rawAnswer
	err := t.s.do(ctx, http.MethodGet, t.path+"/state", nil, &text)
	return text, err
}

// rawAnswer is an answer's JSON text, unchanged.
type rawAnswer []byte

// UnmarshalJSON copies the JSON text into `r`.
func (r *rawAnswer) UnmarshalJSON(b []byte) error {
	*r = append((*r)[:0], b...)
	return nil
}

// Object downloads the object whose SHA-256 is `sum`. The request has no access token, because the
// download URL itself gives access.
func (t *trail) Object(ctx context.Context, sum string) (io.ReadCloser, error) {
	var record struct {
		URL string `json:"signed-geturl"`
	}
	if err := t.s.do(ctx, http.MethodGet, t.path+"/objects/"+sum, nil, &record); err != nil {
		return nil, err
	}
	address, err := url.Parse(record.URL)
	if err != nil || !strings.HasPrefix(address.Path, "/local-s3/") {
		return nil, fmt.Errorf("the hub returned no download URL for object %.64q", sum)
	}
	c, err := t.s.client()
	if err != nil {
		return nil, err
	}
	c.Timeout = 0 // no time limit, because the duration depends on the size; ctx can still end the download
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.s.Hub+address.Path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, unreachable(t.s.Hub, err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("the hub answered %s", resp.Status)
	}
	return resp.Body, nil
}
