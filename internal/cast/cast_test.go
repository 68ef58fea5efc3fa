package cast

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

const recording = "../../docs/recordings/installer.cast"

// The recording is one that players play, of the commands that docs/image.md
// names, and shows no secret but those of a hub that is gone.
func TestRecordingShowsWhatTheDocsSay(t *testing.T) {
	b, err := os.ReadFile(recording)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 64<<10 {
		t.Errorf("%d bytes", len(b))
	}
	r, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if took := r.Events[len(r.Events)-1].At; took < 5*time.Second || took > 5*time.Minute {
		t.Errorf("it takes %s", took)
	}
	text := r.Text()
	doc, err := os.ReadFile("../../docs/image.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "\n```sh\n")
	block, _, _ := strings.Cut(rest, "\n```")
	commands := regexp.MustCompile(`(?m)^(gangway .*)$`).FindAllStringSubmatch(block, -1)
	if len(commands) < 3 {
		t.Fatalf("docs/image.md begins with %q", block)
	}
	for _, c := range commands {
		if !strings.Contains(text, "$ "+c[1]+"\n") {
			t.Errorf("it does not show %q", c[1])
		}
	}
	for _, also := range []string{"gangway serve", "gangway account create", "gangway login", "gangway image inspect installer.img", "gangway device ls", "secret ********"} {
		if !strings.Contains(text, also) {
			t.Errorf("it does not show %q", also)
		}
	}
	if m := regexp.MustCompile(`"token": "|-----BEGIN|/(tmp|home|root|work)/`).FindString(text); m != "" {
		t.Errorf("it shows %q", m)
	}
	for line := range strings.SplitSeq(text, "\n") {
		if n := len([]rune(line)); n > 4*r.Width {
			t.Errorf("a line of %d characters: %.60s", n, line)
		}
	}
}

func TestParseRefusesWhatIsNoRecording(t *testing.T) {
	good := Recording{Header{2, 80, 24, "x"}, []Event{{0, "a\r\n"}, {time.Second, "b<&>\r\n"}}}
	var b bytes.Buffer
	if err := good.Write(&b); err != nil {
		t.Fatal(err)
	}
	got, err := Parse(b.Bytes())
	if err != nil || got.Text() != "a\nb<&>\n" || got.Events[1].At != time.Second {
		t.Errorf("%+v, %v", got, err)
	}
	header := `{"version":2,"width":80,"height":24}` + "\n"
	for _, bad := range []string{"", "{}", `{"version":1,"width":80,"height":24}`, header + "x", header + `[1,"o"]`, header + `[1,"i","x"]`, header + `["1","o","x"]`,
		header + `[2,"o","x"]` + "\n" + `[1,"o","x"]`, header + `[-1,"o","x"]`, header + "[1,\"o\",\"\xff\"]"} {
		if r, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%q is taken: %+v", bad, r)
		}
	}
}
