package machine

import (
	"os"
	"strings"
)

// CommandLine returns the words of the kernel's command line. A word NAME=VALUE has the key NAME
// and the value VALUE; any other word has an empty value.
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
