package netfile_test

import (
	"errors"
	"fmt"
	"strings"

	"gangway/device/install/netfile"
)

// A person writes the file; a program shows the settings without the proxy's
// password.
func Example() {
	settings, err := netfile.Read(strings.NewReader(`# The office in Turin
version = 1
vlan = 42
proxy = http://ada:secret@proxy.example:3128
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, line := range settings.Masked() {
		fmt.Println(line)
	}
	// Output:
	// vlan = 42
	// proxy = http://ada:********@proxy.example:3128
}

// The error of an invalid file names the line and explains what to write.
func ExampleMistake() {
	_, err := netfile.Parse([]byte("version = 1\nvlan = 5000\n"))
	var mistake *netfile.Mistake
	if errors.As(err, &mistake) {
		fmt.Println(mistake.Line)
		fmt.Println(mistake.Text)
	}
	// Output:
	// 2
	// vlan "5000" is not a VLAN id; write a number from 1 to 4094
}
