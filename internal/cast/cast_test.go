package cast

import (
	"bytes"
	"encoding/xml"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

const recording = "../../docs/recordings/installer.cast"

// Players can play the recording in docs/recordings. It displays the commands of docs/image.md, and
// no secrets except secrets of a hub that no longer exists.
func TestRecordingShowsWhatTheDocsSay(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(recording)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 64<<10 {
		t.Errorf("the recording has %d bytes; want at most 64 KiB", len(b))
	}
	r, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if took := r.Events[len(r.Events)-1].At; took < 5*time.Second || took > 5*time.Minute {
		t.Errorf("the recording takes %s; want 5 s to 5 min", took)
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
		t.Fatalf("docs/image.md begins with too few commands: %.300q", block)
	}
	for _, c := range commands {
		if !strings.Contains(text, "$ "+c[1]+"\n") {
			t.Errorf("the recording does not show %q", c[1])
		}
	}
	for _, also := range []string{"gangway serve", "gangway account create", "gangway login", "gangway image inspect installer.img", "gangway device ls", "secret ********"} {
		if !strings.Contains(text, also) {
			t.Errorf("the recording does not show %q", also)
		}
	}
	if m := regexp.MustCompile(`"token": "|-----BEGIN|/(tmp|home|root|work)/`).FindString(text); m != "" {
		t.Errorf("the recording shows a secret or a path: %q", m)
	}
	for line := range strings.SplitSeq(text, "\n") {
		if n := len([]rune(line)); n > 4*r.Width {
			t.Errorf("a line has %d characters: %.60s", n, line)
		}
	}
}

// Parse reads what Write has written. It refuses text that is not a recording, wrong versions,
// input events, and times that decrease.
func TestParseRefusesWhatIsNoRecording(t *testing.T) {
	t.Parallel()
	good := Recording{Header{2, 80, 24, "x"}, []Event{{0, "a\r\n"}, {time.Second, "b<&>\r\n"}}}
	var b bytes.Buffer
	if err := good.Write(&b); err != nil {
		t.Fatal(err)
	}
	got, err := Parse(b.Bytes())
	if err != nil || got.Text() != "a\nb<&>\n" || got.Events[1].At != time.Second {
		t.Errorf("after a round trip: %+v, %v", got, err)
	}
	header := `{"version":2,"width":80,"height":24}` + "\n"
	for _, bad := range []string{"", "{}", `{"version":1,"width":80,"height":24}`, header + "x", header + `[1,"o"]`, header + `[1,"i","x"]`, header + `["1","o","x"]`,
		header + `[2,"o","x"]` + "\n" + `[1,"o","x"]`, header + `[-1,"o","x"]`, header + "[1,\"o\",\"\xff\"]"} {
		if r, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%q is accepted: %+v", bad, r)
		}
	}
}

// The tutorial's recording displays the commands of docs/tutorial.md. It displays no password and
// no path of the machine on which it was made. The animated picture has the same text as the
// recording.
func TestTutorialRecordingShowsWhatThePageSays(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../docs/recordings/tutorial.cast")
	if err != nil {
		t.Fatal(err)
	}
	r, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/tutorial.md")
	if err != nil {
		t.Fatal(err)
	}
	text, commands := r.Text(), 0
	for _, block := range strings.Split(string(page), "\n```sh\n")[1:] {
		block, _, _ = strings.Cut(block, "\n```")
		for line := range strings.SplitSeq(block, "\n") {
			if strings.HasPrefix(line, "make ") || strings.Contains(line, "brave-otter-3fa2") {
				continue
			}
			commands++
			if !strings.Contains(text, "$ "+line+"\n") {
				t.Errorf("the recording does not show %q", line)
			}
		}
	}
	if commands < 8 {
		t.Errorf("the page has %d commands", commands)
	}
	if m := regexp.MustCompile(`Password: +[^ *]|"token": "|-----BEGIN|/(tmp|home|root|work)/`).FindString(text); m != "" {
		t.Errorf("the recording shows a secret or a path: %q", m)
	}
	picture, err := os.ReadFile("../../docs/tutorial/terminal.svg")
	if err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	if err := r.WriteSVG(&again, 3*time.Second); err != nil || !bytes.Equal(again.Bytes(), picture) {
		t.Errorf("docs/tutorial/terminal.svg is not of this recording: run make tutorial (%v)", err)
	}
}

// The picture displays the output of a program as text, even if the output looks like markup.
func TestPictureOfARecordingHasNoMarkupOfPrograms(t *testing.T) {
	t.Parallel()
	r := Recording{Header{2, 20, 3, "</title><script>"}, []Event{{0, "<script>alert(1)</script>\r\n"}, {time.Hour, "&\x1b\r\n"}}}
	var b bytes.Buffer
	if err := r.WriteSVG(&b, time.Second); err != nil {
		t.Fatal(err)
	}
	d := xml.NewDecoder(&b)
	for {
		token, err := d.Token()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "script" {
			t.Error("the picture has a script")
		}
	}
}
