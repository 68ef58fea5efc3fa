package screen

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The function `painted` draws half-block characters as the kernel's console does: 8 by 16 pixels
// for each character.
func painted(lines []string) image.Image {
	const w, h = 8, 16
	pic := image.NewGray(image.Rect(0, 0, len([]rune(lines[0]))*w+2*w, len(lines)*h+2*h)) // black
	for y, line := range lines {
		for x, c := range []rune(line) {
			for py := range h {
				for px := range w {
					upper := py < h/2
					if c == '█' || c == '▀' && upper || c == '▄' && !upper {
						pic.Set((x+1)*w+px, (y+1)*h+py, color.White)
					}
				}
			}
		}
	}
	return pic
}

// A real QR code decoder reads the address from the picture of the screen.
func TestCodeOnTheScreenIsReadByADecoder(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("zbarimg"); err != nil {
		t.Skip("not installed: apt-get install zbar-tools")
	}
	code := strings.Repeat("Ab-_9", 11) + "Abcd"
	for _, hub := range []string{"https://h.io", "https://hub.example:12443", "https://gangway.operations.customer-name.example.com:12443"} {
		address := hub + "/claim/" + code
		lines, err := QR(address, rows)
		if err != nil {
			t.Fatal(err)
		}
		if len(lines) > rows || len([]rune(lines[0])) > 60 {
			t.Errorf("%s: %d by %d", hub, len([]rune(lines[0])), len(lines))
		}
		var pic bytes.Buffer
		if err := png.Encode(&pic, painted(lines)); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "code.png")
		if err := os.WriteFile(file, pic.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("zbarimg", "--quiet", "--raw", file).Output()
		if err != nil || strings.TrimSpace(string(out)) != address {
			t.Errorf("read %q, %v; want %q", out, err, address)
		}
	}
	if _, err := QR("https://"+strings.Repeat("x", 400), rows); err == nil {
		t.Error("a QR code that is larger than the screen is drawn")
	}
}

// The panel with a QR code fits on the screen, even if the names of the hub and the network are
// long.
func TestPanelWithACodeFitsTheScreen(t *testing.T) {
	t.Parallel()
	lines, err := QR("https://gangway.operations.example.com:12443/claim/"+strings.Repeat("x", 59), rows)
	if err != nil {
		t.Fatal(err)
	}
	p := &panel{title: "Gangway", status: "This machine has no owner yet. Scan the code, and compare the letters\nABCD-EFGH-IJKL", code: lines}
	p.set("Network", "eth0 has 2001:db8:1234:5678:9abc:def0:1234:5678/64 "+strings.Repeat("y", 90))
	p.set("TPM", "2.0")
	var b bytes.Buffer
	p.draw(&b)
	text := b.String()
	for _, escape := range []string{clearScreen, white, green, grey, bold, plain} {
		text = strings.ReplaceAll(text, escape, "")
	}
	all := strings.Split(text, "\r\n")
	for _, l := range all {
		if n := len([]rune(l)); n > 80 {
			t.Errorf("%d characters: %s", n, l)
		}
	}
	if len(all) > rows || !strings.Contains(text, "ABCD-EFGH-IJKL") {
		t.Errorf("%d lines:\n%s", len(all), text)
	}
}
