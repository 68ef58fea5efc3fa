package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"time"

	"gangway/image/authenticode"
	"gangway/image/secureboot"

	"github.com/spf13/cobra"
)

// Values of --secure-boot-enrol.
const (
	enrolAsk    = "ask"
	enrolAlways = "always"
)

func (a *app) imageKeys() *cobra.Command {
	var name string
	var also []string
	c := &cobra.Command{
		Use:   "keys DIR",
		Short: "Create your own keys for Secure Boot",
		Long: `Keys creates keys for Secure Boot: PK, KEK and db, each with its certificate, and the
signed variables that firmware accepts in setup mode. Firmware with these keys starts
only your images. To sign an image with db.key, build it with --secure-boot-keys; to
put the variables on the stick too, add --secure-boot-enrol.

Guard the folder. Anyone with db.key can sign programs that your machines start.
Anyone with PK.key or KEK.key can change which programs your machines start. Builds
need only db.key: keep the other two keys offline.

Microsoft signs the firmware drivers of some cards. A machine with such a card may
show nothing without Microsoft's certificate: add it with --also.`,
		Example: `  gangway image keys secure-boot
  gangway image keys secure-boot --name 'Example Ltd' --also MicCorUEFCA2011.crt
  gangway image build x64-uefi-installer --token-file t.json --secure-boot-keys secure-boot --secure-boot-enrol always -o installer.img`,
		Args: args("DIR"),
		RunE: func(_ *cobra.Command, arg []string) error { return a.makeKeys(arg[0], name, also) },
	}
	f := c.Flags()
	f.StringVar(&name, "name", "Gangway", "name of the keys' owner, for the certificates")
	f.StringArrayVar(&also, "also", nil, "certificate (PEM or DER) of another signer: programs of this signer may start too (repeatable)")
	return c
}

// madeKeys is the JSON output of 'gangway image keys'.
type madeKeys struct {
	Folder string `json:"folder"`
	// Certificates maps each variable to its certificates. Each string has the subject and the
	// SHA-256 of one certificate.
	Certificates map[secureboot.Variable][]string `json:"certificates"`
}

func (a *app) makeKeys(dir, name string, also []string) error {
	if name == "" || len(name) > 50 {
		return usagef("--name must have 1 to 50 bytes, not %d", len(name))
	}
	var others []*x509.Certificate
	for _, file := range also {
		c, err := anyCertificate(file)
		if err != nil {
			return err
		}
		others = append(others, c)
	}
	if err := secureboot.New(dir, name, others, time.Now()); err != nil {
		return err
	}
	set, err := secureboot.Load(dir)
	if err != nil {
		return err
	}
	out := madeKeys{dir, map[secureboot.Variable][]string{}}
	for v, certs := range set.Certificates {
		for _, c := range certs {
			out.Certificates[v] = append(out.Certificates[v], authenticode.Name(c))
		}
	}
	if done, err := a.json(out); done {
		return err
	}
	for _, v := range []secureboot.Variable{secureboot.PK, secureboot.KEK, secureboot.DB} {
		for _, name := range out.Certificates[v] {
			a.printf("%-3s %s\n", v, name)
		}
	}
	a.note("The keys are in %s. Builds need db.key; keep PK.key and KEK.key offline.", dir)
	return nil
}

// anyCertificate reads the certificate in a file, in PEM or DER.
func anyCertificate(file string) (*x509.Certificate, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(b); block != nil {
		b = block.Bytes
	}
	c, err := x509.ParseCertificate(b)
	if err != nil {
		return nil, fmt.Errorf("%s is not a certificate: %w", file, err)
	}
	return c, nil
}

// enrolled returns the keys that the installer image enrols in a machine's firmware, or nil if the
// image enrols no keys.
func (o *imageOptions) enrolled() (*secureboot.Set, error) {
	switch {
	case o.enrol == "":
		return nil, nil
	case o.enrol != enrolAsk && o.enrol != enrolAlways:
		return nil, usagef("--secure-boot-enrol must be %s or %s, not %q", enrolAsk, enrolAlways, o.enrol)
	case o.keys == "":
		return nil, usagef("--secure-boot-enrol needs --secure-boot-keys, the folder from 'gangway image keys'")
	}
	return secureboot.Load(o.keys)
}
