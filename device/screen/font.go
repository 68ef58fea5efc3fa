package screen

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Operations of KDFONTOP (linux/kd.h).
const (
	kdFontOp  = 0x4B72
	fontSet   = 0
	fontGet   = 1
	fontChars = 512
	fontPitch = 32 // number of rows that the kernel stores for each character; it does not depend on the font's height
)

// consoleFont is struct console_font_op (linux/kd.h).
type consoleFont struct {
	op, flags                uint32
	width, height, charcount uint32
	_                        uint32
	data                     *byte
}

// enlarge doubles the size of the console's font, so that a person can read the screen from some
// distance. It does not change the font if the screen would then have less than 80 columns or 25
// rows. If enlarge fails, the font stays small.
func enlarge(f *os.File) {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col < 160 || size.Row < 50 {
		return
	}
	small := make([]byte, fontChars*fontPitch)
	font := consoleFont{op: fontGet, width: 16, height: 32, charcount: fontChars, data: &small[0]}
	if !fontOp(f, &font) || font.width != 8 || font.height > 16 {
		return
	}
	large := make([]byte, fontChars*fontPitch*2)
	for c := range int(font.charcount) {
		for row := range int(font.height) {
			wide := double(small[c*fontPitch+row])
			at := (c*fontPitch + 2*row) * 2
			for _, i := range []int{0, 2} { // two rows of two bytes
				large[at+i], large[at+i+1] = byte(wide>>8), byte(wide)
			}
		}
	}
	fontOp(f, &consoleFont{op: fontSet, width: 16, height: 2 * font.height, charcount: font.charcount, data: &large[0]})
}

func fontOp(f *os.File, font *consoleFont) bool {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), kdFontOp, uintptr(unsafe.Pointer(font)))
	return e == 0
}

// The function `double` doubles the width of every pixel in a row.
func double(row byte) (wide uint16) {
	for bit := range 8 {
		if row&(1<<bit) != 0 {
			wide |= 3 << (2 * bit)
		}
	}
	return wide
}
