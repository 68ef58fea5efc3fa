package version

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestRecordedBuild(t *testing.T) {
	t.Parallel()
	vcs := []debug.BuildSetting{
		{Key: "-trimpath", Value: "true"},
		{Key: "vcs.revision", Value: "0123456789abcdef0123456789abcdef01234567"},
		{Key: "vcs.time", Value: "2026-11-29T08:00:00Z"},
	}
	for name, c := range map[string]struct {
		version  string
		settings []debug.BuildSetting
		want     Build
	}{
		"a checkout":            {"(devel)", vcs, Build{"", vcs[1].Value, vcs[2].Value}},
		"a checkout with a tag": {"v1.2.0", vcs, Build{"1.2.0", vcs[1].Value, vcs[2].Value}},
		"go install":            {"v1.2.0", nil, Build{"1.2.0", "", ""}},
		"nothing known":         {"", nil, Build{}},
	} {
		info := &debug.BuildInfo{Main: debug.Module{Version: c.version}, Settings: c.settings}
		if got := recorded(info); got != c.want {
			t.Errorf("%s: %+v; %+v was expected", name, got, c.want)
		}
	}
}

func TestBuildInOneLine(t *testing.T) {
	t.Parallel()
	full := Build{"1.2.0", "0123456789abcdef0123456789abcdef01234567", "2026-11-29T08:00:00Z"}
	for want, b := range map[string]Build{
		"1.2.0 (commit 0123456789ab, 2026-11-29T08:00:00Z, " + runtime.Version() + ")": full,
		"devel (" + runtime.Version() + ")":                                            {Version: "devel"},
	} {
		if got := b.String(); got != want {
			t.Errorf("%q; %q was expected", got, want)
		}
	}
}
