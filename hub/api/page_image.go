package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"gangway/hub/store"
	"gangway/hub/ui"
	"gangway/internal/span"
	"gangway/wire"
)

const (
	imagePath      = onboardPath + "/image"
	imageStatePath = imagePath + "/state"
	// imageBlock is the number of bytes of an image that the hub writes before it sets a new write
	// deadline. The client gets as much time for each block as for the whole answer to any other
	// request.
	imageBlock = 1 << 20
)

// imagePath returns the address of the page that builds images, or "" if the hub builds no images.
func (s *Server) imagePath() string {
	if s.cfg.Images == nil {
		return ""
	}
	return imagePath
}

// showImage shows the form for an image or, while the hub builds an image, the progress of the
// build.
func (s *Server) showImage(w http.ResponseWriter, r *http.Request) error {
	return s.renderImage(w, r, http.StatusOK, ui.ImagePage{TokenForm: ui.TokenForm{Nick: "stick", Expires: span.Format(defaultTokenLife)}})
}

func (s *Server) renderImage(w http.ResponseWriter, r *http.Request, status int, d ui.ImagePage) error {
	d.Tabs, d.StatePath, d.Limit, d.Size = onboardTabs(onboardPath), imageStatePath, span.Format(s.cfg.ImageLimits.Time), ui.Bytes(uint64(s.cfg.ImageLimits.Size))
	d.Building = s.building(r)
	switch {
	case s.cfg.Images == nil:
		d.Missing = "This hub does not build images."
	default:
		d.Missing = s.cfg.Images.Missing()
	}
	return s.renderPage(w, r, status, "image", ui.Page{Title: "Image for a stick", Section: ui.SectionOnboard, Data: d})
}

// showImageState answers with the part of the page that shows the progress of the build. The page
// fetches it while the browser waits for the download.
func (s *Server) showImageState(w http.ResponseWriter, r *http.Request) error {
	return s.renderPart(w, r, "image", "building", ui.Page{Data: ui.ImagePage{Building: s.building(r)}})
}

// building returns the state of the account's build for the page.
func (s *Server) building(r *http.Request) ui.Building {
	now := s.cfg.Now()
	state, ok := s.images.of(accountOf(r).ID, now)
	if !ok {
		return ui.Building{}
	}
	b := ui.Building{Known: true, Running: state.Running, Step: state.Step, For: ui.Span(now.Sub(state.Started)), Problem: state.Problem}
	if state.Size > 0 {
		b.Sent, b.Size, b.SizeWords = int(state.Sent>>10), int(state.Size>>10), ui.Bytes(uint64(state.Size))
	}
	if state.Token != "" {
		b.TokenPath = tokenPath(state.Token)
	}
	return b
}

// buildImageOnPage makes a join token, builds an image with it, and answers with the image.
//
// One request does everything, so the secret exists only in this request, in the pipe to the
// builder, and in the image. If the request ends before the hub has sent the whole image, nobody
// can use the image, so the hub stops the build and disables the join token.
func (s *Server) buildImageOnPage(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	if s.cfg.Images == nil || s.cfg.Images.Missing() != "" {
		return s.renderImage(w, r, http.StatusConflict, ui.ImagePage{})
	}
	d, o, n, life, err := s.readImageForm(r)
	if err != nil {
		return err
	}
	if d.Wrong() {
		return s.renderImage(w, r, http.StatusBadRequest, d)
	}
	err = s.buildAndSend(w, r, o, n, life)
	var failed *imageFailure
	if errors.As(err, &failed) {
		d.Problem = failed.text
		return s.renderImage(w, r, failed.status, d)
	}
	if text, status, ok := s.formProblem(r, err); err != nil && ok {
		d.Problem = text
		return s.renderImage(w, r, status, d)
	}
	return err
}

// readImageForm reads the form for an image, and checks its fields.
func (s *Server) readImageForm(r *http.Request) (d ui.ImagePage, o ImageOptions, n NewJoinToken, life time.Duration, err error) {
	f, n, life, err := readTokenForm(r)
	if err != nil {
		return d, o, n, 0, err
	}
	o = ImageOptions{Claim: r.PostForm.Get("claim") != "", Disk: strings.TrimSpace(r.PostForm.Get("disk")), Escrow: strings.TrimSpace(r.PostForm.Get("escrow")), Network: r.PostForm.Get("network"), RevisionKey: strings.TrimSpace(r.PostForm.Get("revision-key"))}
	if o.Claim { // the image has no join token
		f.TokenForm = ui.TokenForm{Nick: f.Nick, Expires: f.Expires}
	}
	d = ui.ImagePage{TokenForm: f.TokenForm, Claim: o.Claim, Disk: o.Disk, Escrow: o.Escrow, Network: o.Network, RevisionKey: o.RevisionKey}
	if strings.Contains(o.RevisionKey, "PRIVATE KEY") { // pasted by mistake: do not show it again
		d.RevisionKey, d.RevisionKeyProblem = "", "This is a private key, which must stay with you. Paste the public key, as “openssl pkey -in KEY -pubout” prints it."
		return d, o, n, life, nil
	}
	err = s.cfg.Images.Check(o)
	var wrong *ImageOptionError
	if errors.As(err, &wrong) {
		switch wrong.Option {
		case "disk":
			d.DiskProblem = wrong.Reason
		case "escrow":
			d.EscrowProblem = wrong.Reason
		case "revision-key":
			d.RevisionKeyProblem = wrong.Reason
		default:
			d.NetworkProblem = wrong.Reason
		}
		err = nil
	}
	return d, o, n, life, err
}

// imageFailure is the error of a failed build, with a text for the person who waits for the image.
type imageFailure struct {
	status int
	text   string
	err    error
}

func (f *imageFailure) Error() string { return f.err.Error() }
func (f *imageFailure) Unwrap() error { return f.err }

// buildAndSend makes the join token and the image, and sends the image. If an error occurs after
// the first byte of the answer, buildAndSend breaks the connection, so that the browser does not
// mistake a part of the image for the whole image.
func (s *Server) buildAndSend(w http.ResponseWriter, r *http.Request, o ImageOptions, n NewJoinToken, life time.Duration) error {
	account, limits := accountOf(r), s.cfg.ImageLimits
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	one, err := s.images.begin(account.ID, limits.AtOnce, s.cfg.Now(), cancel)
	if err != nil {
		return imageRefusal(err)
	}
	defer func() { s.images.end(account.ID, one, s.cfg.Now()) }()
	// Each build needs space for the image in a temporary file, and for parts of the image in other
	// files.
	if !s.space.fits(int64(limits.AtOnce)*2*limits.Size, s.uploads.totalSize()) {
		return imageRefusal(errStorage)
	}
	connection := http.NewResponseController(w)
	// Set other deadlines, because the server's usual deadlines would end the build after a minute.
	if err := errors.Join(connection.SetReadDeadline(time.Time{}), connection.SetWriteDeadline(time.Now().Add(limits.Time+s.cfg.Timeouts.Request))); err != nil {
		return err
	}
	if o.Claim {
		file, err := s.hubFile()
		if err != nil {
			return err
		}
		return s.buildWith(ctx, w, r, one, o, file, store.Event{Message: "The hub built an installer image without a join token."})
	}
	t, file, err := s.newJoinToken(ctx, account, n, life)
	if err != nil {
		return err
	}
	one.change(func(state *imageState) { state.Token = t.ID })
	sent := false
	defer func() {
		if !sent {
			s.dropImageToken(r, account, t)
		}
	}()
	text, err := tokenFileText(file)
	if err != nil {
		return err
	}
	err = s.buildWith(ctx, w, r, one, o, text, store.Event{Token: t.ID, Message: fmt.Sprintf("The hub built an installer image with the join token %q.", t.Nick)})
	sent = err == nil
	return err
}

// hubFile returns the file that names this hub in an image without a join token. It is not secret.
func (s *Server) hubFile() ([]byte, error) {
	return json.Marshal(wire.HubFile{Hub: s.cfg.PublicURL, HubName: s.cfg.CA.HubName(), HubCA: string(s.cfg.CA.RootPEM())})
}

// buildWith builds an image with a token file or hub file, sends the image and records the event.
func (s *Server) buildWith(ctx context.Context, w http.ResponseWriter, r *http.Request, one *imageBuild, o ImageOptions, file []byte, built store.Event) error {
	account := accountOf(r)
	image, failure := s.build(ctx, one, o, file)
	if failure != nil {
		if o.Claim {
			failure.text = withoutToken.Replace(failure.text)
		}
		one.change(func(state *imageState) { state.Problem = failure.text })
		s.log.Warn("image not built", "account", account.ID, "token", built.Token, "err", failure.err)
		return failure
	}
	defer image.Close()
	if err := s.sendImage(ctx, w, one, image); err != nil {
		one.change(func(state *imageState) {
			state.Problem = "The download was interrupted. The hub disabled the image's join token. Build the image again."
			if o.Claim {
				state.Problem = "The download was interrupted. Build the image again."
			}
		})
		s.log.Info("image not sent", "account", account.ID, "token", built.Token, "err", err)
		panic(http.ErrAbortHandler)
	}
	built.Time, built.Kind, built.Owner = s.cfg.Now(), "image.built", account.ID
	s.record(context.WithoutCancel(ctx), built)
	return nil
}

// imageRefusal converts a Problem to an imageFailure, so that the page shows the problem above the
// form, even if the person cannot correct it in the form.
func imageRefusal(err error) error {
	var p *Problem
	if errors.As(err, &p) {
		return &imageFailure{p.Status, p.Message + " " + p.Hint, err}
	}
	return err
}

// withoutToken removes the sentences about the join token from a failure, for an image without a
// join token.
var withoutToken = strings.NewReplacer(" Its join token was disabled.", "", ", and its join token was disabled", "")

// build builds the image, within limits.Time.
func (s *Server) build(ctx context.Context, one *imageBuild, o ImageOptions, token []byte) (*Image, *imageFailure) {
	limits := s.cfg.ImageLimits
	bounded, cancel := context.WithTimeout(ctx, limits.Time)
	defer cancel()
	image, err := s.cfg.Images.Build(bounded, o, token, limits.Size, func(step string) {
		one.change(func(state *imageState) { state.Step = step })
	})
	switch {
	case err == nil:
		one.change(func(state *imageState) { state.Size = image.Size })
		return image, nil
	case ctx.Err() != nil:
		return nil, &imageFailure{http.StatusServiceUnavailable, "The build was stopped, and its join token was disabled. Build the image again.", err}
	case bounded.Err() != nil:
		return nil, &imageFailure{http.StatusServiceUnavailable, "The build took longer than " + span.Format(limits.Time) + " and was stopped. Its join token was disabled. Try again later, or build the image on your own computer.", err}
	case errors.Is(err, ErrImageSize):
		return nil, &imageFailure{http.StatusInternalServerError, "The image would be larger than " + ui.Bytes(uint64(limits.Size)) + ". Its join token was disabled. Ask the hub's operator to raise --image-size, or build the image on your own computer.", err}
	}
	return nil, &imageFailure{http.StatusInternalServerError, "The hub could not build the image. Its join token was disabled. Ask the hub's operator to read the hub's log, or build the image on your own computer.", err}
}

// sendImage answers with an image.
func (s *Server) sendImage(ctx context.Context, w http.ResponseWriter, one *imageBuild, image *Image) error {
	h, connection := w.Header(), http.NewResponseController(w)
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", `attachment; filename="installer.img"`)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", fmt.Sprint(image.Size))
	ctx, cancel := context.WithTimeout(ctx, imageSendTime)
	defer cancel()
	for left := image.Size; left > 0; {
		if err := errors.Join(ctx.Err(), connection.SetWriteDeadline(time.Now().Add(s.cfg.Timeouts.Request))); err != nil {
			return err
		}
		n, err := io.CopyN(w, image, min(left, imageBlock))
		left -= n
		one.change(func(state *imageState) { state.Sent += n })
		if err != nil {
			return err
		}
	}
	return connection.Flush()
}

// dropImageToken disables the join token of an image that was not sent, even if the request's
// context is cancelled because the client closed the connection.
func (s *Server) dropImageToken(r *http.Request, account store.Account, t store.JoinToken) {
	if err := s.disableJoinToken(context.WithoutCancel(r.Context()), account, t.ID); err != nil {
		s.log.Error("could not disable the join token of an image that was not sent; the token stays valid", "token", t.ID, "err", err)
	}
}
