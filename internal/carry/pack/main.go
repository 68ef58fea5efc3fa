// Command pack appends files to a program: pack PROGRAM FILE...
package main

import (
	"fmt"
	"os"

	"gangway/internal/carry"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: pack PROGRAM FILE...")
		os.Exit(2)
	}
	if err := carry.Add(os.Args[1], os.Args[2:]...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
