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

// What --secure-boot-enrol takes.
const (
	enrolAsk    = "ask"
	enrolAlways = "always"
)

func (a *app) imageKeys() *cobra.Command {
	var name string
	var also []string
	c := &cobra.Command{
		Use:   "keys DIR",
		Short: "Make keys of your own for Secure Boot",
		Long: `Keys makes the keys with which firmware starts your images alone: PK, KEK and db,
each with its certificate, and the signed variables that firmware takes in setup
mode. With --secure-boot-keys images are signed by them, and with
--secure-boot-enrol a stick brings them along.

Guard the folder: who has db.key makes what your machines start, and who has
PK.key or KEK.key decides what they start. Builds need db.key alone; keep the
other two off line. Some cards' drivers are signed by Microsoft: a machine with
such a card may show nothing without Microsoft's certificate, which --also adds.`,
		Example: `  gangway image keys secure-boot
  gangway image keys secure-boot --name 'Example Ltd' --also MicCorUEFCA2011.crt
  gangway image build x64-uefi-installer --token-file t.json --secure-boot-keys secure-boot --secure-boot-enrol always -o installer.img`,
		Args: args("DIR"),
		RunE: func(_ *cobra.Command, arg []string) error { return a.makeKeys(arg[0], name, also) },
	}
	f := c.Flags()
	f.StringVar(&name, "name", "Gangway", "whose keys they are, in the certificates")
	f.StringArrayVar(&also, "also", nil, "a certificate (PEM or DER) of somebody else whose programs shall start too; may be given again")
	return c
}

// madeKeys is what image keys prints as JSON.
type madeKeys struct {
	Folder string `json:"folder"`
	// Certificates are the subjects and SHA-256 of what each variable holds.
	Certificates map[secureboot.Variable][]string `json:"certificates"`
}

func (a *app) makeKeys(dir, name string, also []string) error {
	if name == "" || len(name) > 50 {
		return usagef("--name has 1 to 50 bytes")
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
	a.note("The keys are in %s. Builds need db.key; keep PK.key and KEK.key off line.", dir)
	return nil
}

// anyCertificate reads a certificate, PEM or DER.
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
		return nil, fmt.Errorf("%s is no certificate: %w", file, err)
	}
	return c, nil
}

// enrolled are the keys that the image has firmware take.
func (o *imageOptions) enrolled() (*secureboot.Set, error) {
	switch {
	case o.enrol == "":
		return nil, nil
	case o.enrol != enrolAsk && o.enrol != enrolAlways:
		return nil, usagef("--secure-boot-enrol is %s or %s, not %q", enrolAsk, enrolAlways, o.enrol)
	case o.keys == "":
		return nil, usagef("--secure-boot-enrol needs --secure-boot-keys, the folder of the keys that 'gangway image keys' makes")
	}
	return secureboot.Load(o.keys)
}
