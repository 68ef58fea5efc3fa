package machine

import (
	"os"
	"strings"
)

// CommandLine returns the words of the kernel's command line. For a word NAME=VALUE, the map has
// the key NAME and the value VALUE. For any other word, the word is the key and the value is empty.
func CommandLine() (map[string]string, error) {
	b, err := os.ReadFile("/proc/cmdline")
	return words(string(b)), err
}

func words(line string) map[string]string {
	words := map[string]string{}
	for w := range strings.FieldsSeq(line) {
		key, value, _ := strings.Cut(w, "=")
		words[key] = value
	}
	return words
}

// BootID returns the kernel's random id of this boot.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}
