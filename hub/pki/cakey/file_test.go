package cakey

import (
	"io/fs"
	"testing"
)

// A file with a key may be readable by its group only if root owns the file, and the hub does not
// run as root. If the hub owns the file, or runs as root, only the owner may read the file.
func TestGroupMayReadOnlyKeysOfRoot(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mode  fs.FileMode
		owner uint32
		hub   int
		want  bool
	}{
		{0o600, 65532, 65532, true}, {0o600, 0, 0, true}, {0o400, 0, 65532, true},
		{0o440, 0, 65532, true}, {0o640, 0, 65532, true},
		{0o640, 65532, 65532, false}, {0o440, 65532, 65532, false}, {0o640, 0, 0, false},
		{0o660, 0, 65532, false}, {0o644, 0, 65532, false}, {0o650, 0, 65532, false}, {0o604, 0, 65532, false},
	} {
		if got := private(c.mode, c.owner, c.hub); got != c.want {
			t.Errorf("mode %04o, owner %d, hub %d: %v; %v was expected", c.mode, c.owner, c.hub, got, c.want)
		}
	}
}
