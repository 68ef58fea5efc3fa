package api

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// ImageBuilder builds installer images for the page /ui/onboard/image. The hub's packages cannot
// import the image builder, which knows the devices' formats on disk, so cmd/gangway has one.
type ImageBuilder interface {
	// Missing says, in one sentence, which parts of images the operator has not fetched; empty: none.
	Missing() string
	// Check checks what a person typed. The error is an *ImageOptionError.
	Check(o ImageOptions) error
	// Build builds an image of at most size bytes; no file that it needs on the way is larger. It calls step with each step that it begins.
	// Nothing of the image is left on the disk when the image is closed, or when Build fails. When
	// ctx ends, Build ends; the image can be read after that. ErrImageSize: the image would be larger.
	Build(ctx context.Context, o ImageOptions, token []byte, size int64, step func(string)) (*Image, error)
}

// ImageOptions are what a person chooses for an image. All are texts as typed; empty means the
// default of 'gangway image build'. The debug console is not offered: its password would have to be
// shown beside the download.
type ImageOptions struct {
	Disk    string // the disk to install to
	Escrow  string // an age recipient for the recovery keys
	Network string // the machines' network settings, as in network.txt
}

// ImageOptionError says which option is wrong, and why.
type ImageOptionError struct {
	Option string // "disk", "escrow" or "network"
	Reason string // a sentence
}

func (e *ImageOptionError) Error() string { return e.Reason }

// ErrImageSize means that an image would be larger than its bound.
var ErrImageSize = errors.New("the image is larger than its bound")

// Image is an image while it is read.
type Image struct {
	io.ReadCloser
	Size int64
}

// ImageLimits bound the building of images. A zero field means the default.
type ImageLimits struct {
	AtOnce int           // builds at once, of all owners; an owner has one at a time
	Time   time.Duration // of one build, without the download
	Size   int64         // of one image, and of each file while it is built, in bytes
}

// DefaultImageLimits are the defaults of ImageLimits.
var DefaultImageLimits = ImageLimits{AtOnce: 1, Time: 5 * time.Minute, Size: 512 << 20}

func (l ImageLimits) withDefaults() ImageLimits {
	d := DefaultImageLimits
	return ImageLimits{cmp.Or(l.AtOnce, d.AtOnce), cmp.Or(l.Time, d.Time), cmp.Or(l.Size, d.Size)}
}

var (
	errImageOwn  = problem(http.StatusConflict, "image-running", "Wait until its download has ended, or stop it in the browser.", "The hub builds an image for you already.")
	errImageBusy = problem(http.StatusServiceUnavailable, "images-busy", "Try again in a minute.", "The hub builds images for others now.")
)

const (
	// outcomeLife is how long the page says how the last build ended.
	outcomeLife = 10 * time.Minute
	// imageDownloads bounds the images that are downloaded at once, of all owners.
	imageDownloads = 16
	// imageSendTime bounds one download.
	imageSendTime = time.Hour
)

// imageBuilds are the running builds, and how the last ones ended.
type imageBuilds struct {
	mu      sync.Mutex
	running map[string]*imageBuild // by owner
	last    map[string]imageState  // by owner
	ended   bool                   // the hub stops
}

// imageBuild is a running build.
type imageBuild struct {
	cancel context.CancelFunc
	mu     sync.Mutex
	state  imageState
}

// imageState is how far a build is, or how it ended.
type imageState struct {
	Running    bool
	Started    time.Time
	Ended      time.Time
	Step       string // in words, while it is built
	Sent, Size int64  // Size is 0 until the image is built
	Token      string // the id of the image's join token
	Problem    string // why it failed; empty: it did not
}

// building is how many images are built now. The others are downloaded: a slow client must not keep
// other owners from building. The caller holds b.mu.
func (b *imageBuilds) building() (n int) {
	for _, one := range b.running {
		if one.now().Size == 0 {
			n++
		}
	}
	return n
}

// begin admits a build. The caller calls end when it has ended.
func (b *imageBuilds) begin(owner string, atOnce int, now time.Time, cancel context.CancelFunc) (*imageBuild, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running == nil {
		b.running, b.last = map[string]*imageBuild{}, map[string]imageState{}
	}
	for one, state := range b.last {
		if one == owner || now.Sub(state.Ended) > outcomeLife {
			delete(b.last, one)
		}
	}
	switch {
	case b.running[owner] != nil:
		return nil, errImageOwn
	case b.building() >= atOnce || len(b.running) >= atOnce+imageDownloads || b.ended:
		return nil, errImageBusy
	}
	one := &imageBuild{cancel: cancel, state: imageState{Running: true, Started: now}}
	b.running[owner] = one
	return one, nil
}

func (b *imageBuilds) end(owner string, one *imageBuild, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.running, owner)
	state := one.now()
	state.Running, state.Ended = false, now
	b.last[owner] = state
}

// of returns an owner's running build, or how the last one ended.
func (b *imageBuilds) of(owner string, now time.Time) (imageState, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if one := b.running[owner]; one != nil {
		return one.now(), true
	}
	state, ok := b.last[owner]
	return state, ok && now.Sub(state.Ended) <= outcomeLife
}

// stop ends all builds, because the hub stops.
func (b *imageBuilds) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	for _, one := range b.running {
		one.cancel()
	}
}

func (one *imageBuild) now() imageState {
	one.mu.Lock()
	defer one.mu.Unlock()
	return one.state
}

func (one *imageBuild) change(f func(*imageState)) {
	one.mu.Lock()
	defer one.mu.Unlock()
	f(&one.state)
}
