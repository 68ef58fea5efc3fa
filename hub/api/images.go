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

// ImageBuilder builds installer images for the page /ui/onboard/image. The hub's packages may not
// import the image builder, because the image builder imports packages of the device. cmd/gangway
// implements ImageBuilder.
type ImageBuilder interface {
	// Missing returns a sentence that says what the operator must still fetch or install before the
	// hub can build images. The sentence is empty if nothing is missing.
	Missing() string
	// Check checks the options that a person typed. Its error is an *ImageOptionError.
	Check(o ImageOptions) error
	// Build builds an image. `file` is the content of the join token's file or, with o.Claim, of
	// the file that names the hub. When a step of the build begins, Build calls `step` with the
	// step's name.
	//
	// The image, and each temporary file, has at most `size` bytes. If the image would be larger,
	// the error is ErrImageSize. Build ends when ctx ends. After Build has returned an image, the
	// caller can read the image even if ctx has ended. When Build has failed, or when the caller
	// has closed the image, no file of the image is left on the disk.
	Build(ctx context.Context, o ImageOptions, file []byte, size int64, step func(string)) (*Image, error)
}

// ImageOptions are the options that a person chooses for an image. The string fields have the texts
// that the person typed. An empty text means the default of 'gangway image build'.
//
// Some options of 'gangway image build' are not on the page, for these reasons:
//   - The debug console: the page would have to show its password next to the download.
//   - Keys for Secure Boot: a private key that signs programs for a fleet must not be sent to a
//     server.
//   - The key of reference manifests: the image needs signatures by the private key.
//   - Sources for the first revision (--merge): the sources may be gigabytes, and the hub would
//     unpack archives from anyone. Post the revision to the devices instead.
type ImageOptions struct {
	Claim   bool   // the image has no join token; each machine displays a claim code
	Disk    string // the disk to install to
	Escrow  string // an age recipient for the recovery keys
	Network string // the machines' network settings, as in network.txt
	// RevisionKey has public keys in PEM. The devices install a revision only if it was signed with
	// the private key of one of these public keys.
	RevisionKey string
}

// ImageOptionError is an error in one option.
type ImageOptionError struct {
	Option string // "disk", "escrow", "network" or "revision-key"
	Reason string // a sentence for the person who typed the option
}

func (e *ImageOptionError) Error() string { return e.Reason }

// ErrImageSize means that an image would be larger than the size limit.
var ErrImageSize = errors.New("the image is larger than the size limit")

// Image is a finished image, from which the caller reads Size bytes.
type Image struct {
	io.ReadCloser
	Size int64
}

// ImageLimits bound the building of images. A zero field means the default.
type ImageLimits struct {
	AtOnce int           // maximum number of concurrent builds of all owners; each owner can have only one build
	Time   time.Duration // maximum time of one build, without the download
	Size   int64         // maximum size of one image, and of each temporary file of a build, in bytes
}

// DefaultImageLimits are the defaults of ImageLimits.
var DefaultImageLimits = ImageLimits{AtOnce: 1, Time: 5 * time.Minute, Size: 512 << 20}

func (l ImageLimits) withDefaults() ImageLimits {
	d := DefaultImageLimits
	return ImageLimits{cmp.Or(l.AtOnce, d.AtOnce), cmp.Or(l.Time, d.Time), cmp.Or(l.Size, d.Size)}
}

var (
	errImageOwn  = problem(http.StatusConflict, "image-running", "Wait until the download has ended, or stop the download in the browser.", "The hub is already building an image for your account.")
	errImageBusy = problem(http.StatusServiceUnavailable, "images-busy", "Try again in a minute.", "The hub is already building as many images as the operator allows.")
)

const (
	// outcomeLife is how long the page shows the result of an owner's last build.
	outcomeLife = 10 * time.Minute
	// imageDownloads is the largest number of images that all owners download at the same time.
	imageDownloads = 16
	// imageSendTime is the time limit of one download.
	imageSendTime = time.Hour
)

// imageBuilds are the running builds, and the results of the last builds.
type imageBuilds struct {
	mu      sync.Mutex
	running map[string]*imageBuild // by owner
	last    map[string]imageState  // by owner
	ended   bool                   // the hub is stopping; no build can begin
}

// imageBuild is a running build.
type imageBuild struct {
	cancel context.CancelFunc
	mu     sync.Mutex
	state  imageState
}

// imageState is the progress of a running build, or the result of an ended build.
type imageState struct {
	Running    bool
	Started    time.Time
	Ended      time.Time
	Step       string // the present step, in words, while the image is being built
	Sent, Size int64  // Size is 0 until the image is built
	Token      string // the id of the image's join token
	Problem    string // why the build failed; empty: it did not fail
}

// building returns the number of images that are being built. It does not count images that are
// being downloaded, so that a slow client does not keep other owners from building. The caller has
// locked b.mu.
func (b *imageBuilds) building() (n int) {
	for _, one := range b.running {
		if one.now().Size == 0 {
			n++
		}
	}
	return n
}

// The method `begin` starts a build, or returns errImageOwn or errImageBusy. The caller must call
// the method `end` after the build.
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

// The method `of` returns the state of an owner's running build. If no build is running, it returns
// the state of the last build.
func (b *imageBuilds) of(owner string, now time.Time) (imageState, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if one := b.running[owner]; one != nil {
		return one.now(), true
	}
	state, ok := b.last[owner]
	return state, ok && now.Sub(state.Ended) <= outcomeLife
}

// The method `stop` ends all builds. It is called when the hub stops.
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
