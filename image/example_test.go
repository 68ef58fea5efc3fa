package image_test

import (
	"bytes"
	"fmt"
	"log"
	"os"

	"gangway/image"
)

// This example makes a bootable disk image whose init prints a line. The kernel is from Debian's
// package linux-image-amd64, and the stub from systemd-boot-efi.
func Example() {
	program := func(name string) []byte {
		b, err := os.ReadFile(name)
		if err != nil {
			log.Fatal(err)
		}
		return b
	}
	initrd, err := image.Initramfs([]image.File{{Path: "init", Data: program("init"), Mode: 0o755}})
	if err != nil {
		log.Fatal(err)
	}
	uki, err := image.UKI{
		Stub:    program("/usr/lib/systemd/boot/efi/linuxx64.efi.stub"),
		Kernel:  program("/boot/vmlinuz"),
		Initrd:  initrd,
		Cmdline: "console=ttyS0",
	}.Build()
	if err != nil {
		log.Fatal(err)
	}
	disk := image.Disk{ESP: []image.File{{Path: "EFI/BOOT/BOOTX64.EFI", Data: uki}}}
	if err := disk.Write("disk.img"); err != nil {
		log.Fatal(err)
	}
}

// The same files give the same bytes in any order.
func ExampleInitramfs() {
	hosts := image.File{Path: "etc/hosts", Data: []byte("127.0.0.1 localhost\n")}
	program := image.File{Path: "init", Data: []byte("#!/bin/sh\n"), Mode: 0o755}
	one, err := image.Initramfs([]image.File{hosts, program})
	if err != nil {
		fmt.Println(err)
		return
	}
	two, err := image.Initramfs([]image.File{program, hosts})
	fmt.Println(bytes.Equal(one, two), err)
	// Output: true <nil>
}
