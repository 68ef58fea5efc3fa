package access

import (
	"os"
	"path/filepath"
	"testing"
)

// Both the image and the machine's owner set a level, and the lower of the two is in force. An
// unknown level counts as Read.
func TestOwnerLimitsTheConsole(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		limit Level
		whose Ownership
		meta  string
		want  Level
	}{
		{Full, Owned, "", On},
		{Full, Owned, "off", Off},
		{Full, Owned, "read", Read},
		{Full, Owned, "full", Full},
		{Full, Owned, "of", Read},
		{Full, Owned, "?", Read},
		{On, Owned, "full", On},
		{Off, Owned, "full", Off},
		{Off, Unowned, "", Off},
		{Full, Unowned, "", Full},
		{Full, Unowned, "off", Full}, // the setting of an earlier owner, which does not apply after a new onboarding
		{Full, GivenUp, "off", Full},
		{Read, GivenUp, "", Read},
		{Full, Doubtful, "", On},
		{Full, Doubtful, "off", Off},
	} {
		if got := Effective(c.limit, c.whose, c.meta); got != c.want {
			t.Errorf("limit %s, ownership %d, meta %q: %s, want %s", c.limit, c.whose, c.meta, got, c.want)
		}
	}
}

// Setting returns the owner's level, "" if there is none, and "?" for a value that is not a string.
func TestSettingInTheUserMeta(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{}`: "", `{"gangway.console":null}`: "", `{"gangway.console":"off"}`: "off",
		`{"gangway.console":""}`: "?", `{"gangway.console":7}`: "?", `{`: "?", `[]`: "?",
	} {
		file := filepath.Join(t.TempDir(), "user-meta.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := Setting(file); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	if got := Setting(filepath.Join(t.TempDir(), "none")); got != "" {
		t.Errorf("no file: %q", got)
	}
	if got := Setting(t.TempDir()); got != "?" {
		t.Errorf("a file that cannot be read: %q", got)
	}
}

func TestLevelsHaveNames(t *testing.T) {
	t.Parallel()
	for _, l := range []Level{Off, Read, On, Full} {
		if got, err := Parse(l.String()); got != l || err != nil {
			t.Errorf("%s: %s, %v", l, got, err)
		}
	}
	if _, err := Parse("On"); err == nil {
		t.Error("another spelling is accepted")
	}
}
