package api_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
	"gangway/internal/locked"
	"gangway/wire"
)

// builder replaces the image builder of cmd/gangway, which has its own tests. With it, a test can
// stop a build at any point or make it fail.
type builder struct {
	missing string
	check   error
	builds  atomic.Int32
	build   func(ctx context.Context, o api.ImageOptions, token []byte, step func(string)) (*api.Image, error)
}

func (b *builder) Missing() string              { return b.missing }
func (b *builder) Check(api.ImageOptions) error { return b.check }

func (b *builder) Build(ctx context.Context, o api.ImageOptions, token []byte, _ int64, step func(string)) (*api.Image, error) {
	b.builds.Add(1)
	return b.build(ctx, o, token, step)
}

// imageOf returns an image that contains a token file.
func imageOf(token []byte) *api.Image {
	text := "an image with " + string(token)
	return &api.Image{ReadCloser: io.NopCloser(strings.NewReader(text)), Size: int64(len(text))}
}

// untilStopped returns a build function for a build that does not end until it is stopped. When the
// build begins, the function sends the token to the channel `began`.
func untilStopped(began chan<- string) func(context.Context, api.ImageOptions, []byte, func(string)) (*api.Image, error) {
	return func(ctx context.Context, _ api.ImageOptions, token []byte, step func(string)) (*api.Image, error) {
		step("Making the installer")
		began <- string(token)
		<-ctx.Done()
		return nil, ctx.Err()
	}
}

func sceneWithBuilder(t *testing.T, b *builder, limits api.ImageLimits) *scene {
	t.Helper()
	limits.Size = cmp.Or(limits.Size, 1<<20)
	return newSceneWith(t, func(c *api.Config) { c.Images, c.ImageLimits = b, limits })
}

func (s *scene) signedIn(t *testing.T, nick string) *browser {
	t.Helper()
	b := s.browser(t)
	if status, _, _ := b.form("/sign-in", "nick", nick, "password", hubtest.Password); status != 303 {
		t.Fatalf("sign-in: %d", status)
	}
	b.send("GET", "/ui/onboard/new", "")
	return b
}

// leave starts a build for a client that ends its request when `ctx` ends.
func (b *browser) leave(ctx context.Context, fields ...string) chan error {
	form := url.Values{"csrf": {b.token}}
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	ended := make(chan error, 1)
	go func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.s.URL+"/ui/onboard/image", strings.NewReader(form.Encode()))
		if err != nil {
			ended <- err
			return
		}
		req.Header.Set("Cookie", b.cookie)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		resp, err := b.client.Do(req)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		ended <- err
	}()
	return ended
}

// The function `until` waits until the function `ok` returns true. Tests use it for work that the
// hub does after the client has closed the connection.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s has not happened", what)
		}
	}
}

func (s *scene) isDisabled(t *testing.T, id string) bool {
	t.Helper()
	return must(s.Store.JoinToken(t.Context(), id))(t).Disabled
}

// The hub makes a join token, gives the token file to the builder, and sends the image. Only the
// image contains the token's secret.
func TestImageIsSentAndItsSecretKept(t *testing.T) {
	t.Parallel()
	var log locked.Buffer
	var got api.ImageOptions
	var file []byte
	b := &builder{build: func(_ context.Context, o api.ImageOptions, token []byte, _ func(string)) (*api.Image, error) {
		got, file = o, token
		return imageOf(token), nil
	}}
	s := newSceneWith(t, func(c *api.Config) {
		c.Images, c.ImageLimits.Size = b, 1<<20
		c.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	ada := s.signedIn(t, "ada")
	_, page, _ := ada.send("GET", "/ui/onboard/image", "")
	says(t, page, "Disk to install to", "Build and download", "dd if=installer.img")
	status, image, h := ada.form("/ui/onboard/image", "nick", "hall 3", "max-uses", "5", "expires-in", "2w", "disk", "model:Samsung*", "network", "dns = 192.0.2.53\n", "escrow", "age1x", "revision-key", " KEY ")
	if status != 200 || image != "an image with "+string(file) || h.Get("Content-Length") != fmt.Sprint(len(image)) ||
		h.Get("Content-Disposition") != `attachment; filename="installer.img"` || h.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %s: %s", status, brief.Of(h), brief.Of(image))
	}
	if got.Disk != "model:Samsung*" || got.Network != "dns = 192.0.2.53\n" || got.Escrow != "age1x" || got.RevisionKey != "KEY" {
		t.Errorf("%s", brief.Of(got))
	}
	tok := must(wire.ParseTokenFile(file))(t)
	if stored := s.newestToken(t, s.Owner); stored.ID != tok.ID || stored.MaxUses != 5 || stored.Nick != "hall 3" || stored.Disabled {
		t.Errorf("%s", brief.Of(stored))
	}
	must(s.victim.Onboard(t.Context(), s.client, tok))(t)
	_, state, _ := ada.send("GET", "/ui/onboard/image/state", "")
	says(t, state, "The image was sent")
	_, page, _ = ada.send("GET", "/ui/onboard/image", "")
	for where, text := range map[string]string{"headers": fmt.Sprint(h), "log": log.String(), "state": state, "page": page, "events": fmt.Sprint(must(s.Store.Events(t.Context(), store.EventFilter{Owner: s.Owner.ID}))(t))} {
		if strings.Contains(text, tok.Token) {
			t.Errorf("the secret is in the %s", where)
		}
	}
	absentInFiles(t, s.Data(), tok.Token)
	if n := len(must(s.Store.Events(t.Context(), store.EventFilter{Owner: s.Owner.ID, Kind: "image.built"}))(t)); n != 1 {
		t.Errorf("%d events about the image", n)
	}
}

// An image with claim codes needs no join token, so the hub makes none, even if the form has the
// fields of a join token. The builder gets only the hub file.
func TestImageWithClaimCodesHasNoToken(t *testing.T) {
	t.Parallel()
	var got api.ImageOptions
	var file []byte
	failing := errors.New("no space")
	b := &builder{build: func(_ context.Context, o api.ImageOptions, hub []byte, _ func(string)) (*api.Image, error) {
		got, file = o, hub
		return nil, failing
	}}
	s := sceneWithBuilder(t, b, api.ImageLimits{})
	ada := s.signedIn(t, "ada")
	tokens := func() int { return len(must(s.Store.JoinTokens(t.Context(), s.Owner.ID))(t)) }
	before := tokens()
	page := ada.posts("/ui/onboard/image", 500, "claim", "yes", "nick", "hall", "max-uses", "not a number")
	says(t, page, "The hub could not build the image.")
	if strings.Contains(text(page), "was disabled") || !strings.Contains(page, `name="claim" value="yes" checked`) {
		t.Errorf("the page speaks of a join token: %s", brief.Of(text(page)))
	}
	b.build = func(_ context.Context, o api.ImageOptions, hub []byte, _ func(string)) (*api.Image, error) {
		got, file = o, hub
		return imageOf(hub), nil
	}
	ada.posts("/ui/onboard/image", 200, "claim", "yes", "nick", "hall")
	hub := must(wire.ParseHubFile(file))(t)
	if !got.Claim || hub.Hub != s.URL || hub.HubName != s.CA.HubName() || hub.HubCA != string(s.CA.RootPEM()) {
		t.Errorf("claim %v, hub file %s", got.Claim, brief.Of(file))
	}
	if n := tokens(); n != before {
		t.Errorf("%d join tokens, %d before", n, before)
	}
	says(t, ada.page("/ui/onboard/image"), "It has no join token", "with the code that it displays")
	says(t, ada.page("/ui/audit?kind=image."), "The hub built an installer image without a join token.")
}

// A build ignores a join token in the form. It makes a join token of the signed-in account, so that
// nobody can put another owner's token into an image.
func TestImageTakesNoOtherToken(t *testing.T) {
	t.Parallel()
	var file []byte
	s := sceneWithBuilder(t, &builder{build: func(_ context.Context, _ api.ImageOptions, token []byte, _ func(string)) (*api.Image, error) {
		file = token
		return imageOf(token), nil
	}}, api.ImageLimits{})
	theirs := s.Token(t, s.Account(t, "mallory"), nil)
	ada := s.signedIn(t, "ada")
	ada.form("/ui/onboard/image", "token", theirs.ID, "id", theirs.ID, "secret", theirs.Token, "owner", theirs.Owner, "token-file", "/etc/passwd")
	if tok := must(wire.ParseTokenFile(file))(t); tok.ID == theirs.ID || tok.Token == theirs.Token || tok.Owner != wire.AccountPRN+s.Owner.ID {
		t.Errorf("the image has %s", brief.Of(tok))
	}
}

// One owner can have only one build at a time, and all owners together can have only as many builds
// as the operator allows.
func TestBuildsAtOnceAreBounded(t *testing.T) {
	t.Parallel()
	began := make(chan string, 4)
	b := &builder{build: untilStopped(began)}
	s := sceneWithBuilder(t, b, api.ImageLimits{AtOnce: 2})
	s.Account(t, "bert")
	s.Account(t, "cleo")
	ctx, stop := context.WithCancel(t.Context())
	ada, bert, cleo := s.signedIn(t, "ada"), s.signedIn(t, "bert"), s.signedIn(t, "cleo")
	first := ada.leave(ctx)
	<-began
	before := len(must(s.Store.JoinTokens(t.Context(), s.Owner.ID))(t))
	status, page, _ := ada.form("/ui/onboard/image", "nick", "again")
	says(t, page, "already building an image for your account")
	if after := len(must(s.Store.JoinTokens(t.Context(), s.Owner.ID))(t)); status != 409 || b.builds.Load() != 1 || after != before {
		t.Errorf("two builds of one owner: %d, %d builds, %d new tokens", status, b.builds.Load(), after-before)
	}
	_, page, _ = ada.send("GET", "/ui/onboard/image", "")
	says(t, page, "building", "Making the installer")
	if !strings.Contains(page, `<a class="button" href="/ui/onboard/image">`) || strings.Contains(page, `id="image-form"`) {
		t.Error("the page does not lead to its newer state without JavaScript")
	}
	second := bert.leave(ctx)
	<-began
	status, page, _ = cleo.form("/ui/onboard/image", "nick", "typed by cleo")
	says(t, page, "building as many images as the operator allows")
	if status != 503 || b.builds.Load() != 2 || !strings.Contains(page, "typed by cleo") {
		t.Errorf("three builds with a bound of two: %d, %d builds", status, b.builds.Load())
	}
	if _, page, _ := cleo.send("GET", "/ui/onboard/image/state", ""); strings.Contains(page, "data-running") {
		t.Error("cleo sees the build of another owner")
	}
	stop()
	<-first
	<-second
	until(t, "a free place", func() bool {
		third := cleo.leave(t.Context())
		select {
		case <-began:
			return true
		case <-third:
			return false
		}
	})
}

// If a client does not read its image, only further builds of its own account must wait.
func TestSlowDownloadKeepsNobodyFromBuilding(t *testing.T) {
	t.Parallel()
	began, closed := make(chan struct{}, 2), make(chan struct{}, 2)
	s := sceneWithBuilder(t, &builder{build: func(_ context.Context, o api.ImageOptions, token []byte, _ func(string)) (*api.Image, error) {
		began <- struct{}{}
		if o.Disk == "small" {
			return imageOf(token), nil
		}
		return &api.Image{ReadCloser: endless{closed}, Size: 1 << 40}, nil
	}}, api.ImageLimits{AtOnce: 1})
	s.Account(t, "bert")
	ada, bert := s.signedIn(t, "ada"), s.signedIn(t, "bert")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/ui/onboard/image", strings.NewReader("csrf="+ada.token))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Cookie", ada.cookie)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := ada.client.Do(req) // the test does not read the body
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	<-began
	if status, page, _ := bert.form("/ui/onboard/image", "disk", "small"); status != 200 {
		t.Errorf("another owner: %d %s", status, brief.Of(text(page)))
	}
	if status, _, _ := s.again(t, ada).form("/ui/onboard/image", "disk", "small"); status != 409 {
		t.Errorf("the same owner: %d", status)
	}
}

// If a client closes its connection while the hub builds or sends the image, the hub ends the build
// and disables the join token. The test uses HTTP/1.1 and HTTP/2.
func TestClientThatGoesAwayEndsTheBuild(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		for _, sending := range []bool{false, true} {
			t.Run(fmt.Sprintf("HTTP/2 %v, sending %v", http2, sending), func(t *testing.T) {
				t.Parallel()
				began, ended := make(chan string, 1), make(chan struct{}, 1)
				b := &builder{}
				b.build = func(ctx context.Context, o api.ImageOptions, token []byte, step func(string)) (*api.Image, error) {
					if sending {
						began <- string(token)
						return &api.Image{ReadCloser: endless{ended}, Size: 1 << 40}, nil
					}
					defer func() { ended <- struct{}{} }()
					return untilStopped(began)(ctx, o, token, step)
				}
				s := sceneWithBuilder(t, b, api.ImageLimits{Size: 1 << 20})
				ada := s.signedIn(t, "ada")
				ada.client.Transport.(*http.Transport).ForceAttemptHTTP2 = http2
				ctx, leave := context.WithCancel(t.Context())
				answer := ada.leave(ctx)
				tok := must(wire.ParseTokenFile([]byte(<-began)))(t)
				if s.isDisabled(t, tok.ID) {
					t.Error("the token is disabled while its image is built")
				}
				if sending {
					until(t, "a part of the download", func() bool {
						_, page, _ := s.again(t, ada).send("GET", "/ui/onboard/image/state", "")
						return strings.Contains(page, "Sending")
					})
				}
				leave()
				if err := <-answer; !errors.Is(err, context.Canceled) {
					t.Errorf("the client got %v", err)
				}
				<-ended
				until(t, "the end of the token", func() bool { return s.isDisabled(t, tok.ID) })
			})
		}
	}
}

// The method `again` returns another tab of a person's browser, with the same cookies.
func (s *scene) again(t *testing.T, b *browser) *browser {
	t.Helper()
	other := s.browser(t)
	other.cookie, other.token = b.cookie, b.token
	return other
}

// endless is an image that never ends.
type endless struct{ closed chan<- struct{} }

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }
func (e endless) Close() error             { e.closed <- struct{}{}; return nil }

// If a build fails, takes too long or becomes too large, the hub disables the build's join token.
// The page shows the failure and the typed values, but not the builder's error text.
func TestFailedBuildDisablesItsToken(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err    error // nil: the build runs until it is stopped
		status int
		says   string
	}{
		"fails":     {errors.New("mke2fs: /var/lib/secret-folder"), 500, "could not build the image"},
		"too large": {fmt.Errorf("wrapped: %w", api.ErrImageSize), 500, "larger than 1.0 MiB"},
		"too long":  {nil, 503, "took longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sceneWithBuilder(t, &builder{build: func(ctx context.Context, _ api.ImageOptions, _ []byte, _ func(string)) (*api.Image, error) {
				if c.err == nil {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return nil, c.err
			}}, api.ImageLimits{Time: 200 * time.Millisecond, Size: 1 << 20})
			ada := s.signedIn(t, "ada")
			status, page, h := ada.form("/ui/onboard/image", "nick", "kept nick", "disk", "serial:kept")
			says(t, page, c.says, "disabled")
			if status != c.status || !strings.Contains(page, "kept nick") || !strings.Contains(page, "serial:kept") || h.Get("Content-Disposition") != "" {
				t.Errorf("%d %s", status, brief.Of(text(page)))
			}
			if strings.Contains(page, "secret-folder") {
				t.Error("the page has the builder's own words")
			}
			if tok := s.newestToken(t, s.Owner); tok.Nick != "kept nick" || !tok.Disabled {
				t.Errorf("%s", brief.Of(tok))
			}
			_, state, _ := ada.send("GET", "/ui/onboard/image/state", "")
			says(t, state, c.says)
		})
	}
}

// If a field is wrong, the page shows the problem beside it. The hub makes no join token and builds
// no image.
func TestWrongImageFormBuildsNothing(t *testing.T) {
	t.Parallel()
	b := &builder{}
	s := sceneWithBuilder(t, b, api.ImageLimits{})
	ada := s.signedIn(t, "ada")
	before := len(must(s.Store.JoinTokens(t.Context(), s.Owner.ID))(t))
	const attack = `"><script>alert(1)</script>`
	for _, option := range []string{"disk", "escrow", "network", "revision-key", "expires-in"} {
		b.check = &api.ImageOptionError{Option: option, Reason: "This is wrong " + attack}
		fields := []string{"nick", "kept", option, attack}
		if option == "expires-in" {
			b.check = nil
		}
		status, page, _ := ada.form("/ui/onboard/image", fields...)
		if status != 400 || !strings.Contains(page, `id="e-`+option+`"`) || strings.Contains(page, "<script>alert") || !strings.Contains(page, `value="kept"`) {
			t.Errorf("%s: %d %s", option, status, brief.Of(text(page)))
		}
	}
	// A private key that somebody pastes by mistake reaches neither the builder nor the page.
	b.check = nil
	if status, page, _ := ada.form("/ui/onboard/image", "nick", "kept", "revision-key", "-----BEGIN PRIVATE KEY-----"); status != 400 || strings.Contains(page, "BEGIN PRIVATE") || !strings.Contains(page, "This is a private key") {
		t.Errorf("%d %s", status, brief.Of(text(page)))
	}
	ada.token = "AAAA"
	if status, _, _ := ada.form("/ui/onboard/image"); status != 403 {
		t.Errorf("without the form token: %d", status)
	}
	if after := len(must(s.Store.JoinTokens(t.Context(), s.Owner.ID))(t)); after != before || b.builds.Load() != 0 {
		t.Errorf("%d join tokens and %d builds", after-before, b.builds.Load())
	}
}

// If the hub cannot build images, the page shows the commands by which a person can build an image.
func TestImagePageWithoutPartsGivesTheCommands(t *testing.T) {
	t.Parallel()
	missing := &builder{missing: "Parts of images are missing on the hub."}
	for name, s := range map[string]*scene{"no builder": newScene(t), "no parts": sceneWithBuilder(t, missing, api.ImageLimits{})} {
		ada := s.signedIn(t, "ada")
		_, page, _ := ada.send("GET", "/ui/onboard/image", "")
		says(t, page, "cannot build an image now", "gangway image fetch", "gangway image build x64-uefi-installer --token-file device_autojointoken.json")
		before := len(must(s.Store.JoinTokens(t.Context(), s.Owner.ID))(t))
		if status, _, _ := ada.form("/ui/onboard/image"); status != 409 || len(must(s.Store.JoinTokens(t.Context(), s.Owner.ID))(t)) != before {
			t.Errorf("%s: %d", name, status)
		}
	}
}

// When the hub stops, it ends the running builds instead of waiting until they are complete. The
// end of the test checks that the hub stops without an error.
func TestHubThatStopsEndsBuilds(t *testing.T) {
	t.Parallel()
	began := make(chan string, 1)
	s := sceneWithBuilder(t, &builder{build: untilStopped(began)}, api.ImageLimits{})
	s.signedIn(t, "ada").leave(context.Background())
	<-began
}
