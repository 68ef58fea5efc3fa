package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"syscall"

	"gangway/hub/doctor"
	"gangway/hub/objects"
	"gangway/internal/finding"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func (a *app) fsckCommand() *cobra.Command {
	var data string
	var contents bool
	var s3 objects.S3Config
	c := &cobra.Command{
		Use: "fsck --data DIR", Short: "Check that the hub's database is consistent", Args: args(),
		Long: `Fsck reads the whole database, and checks that its parts agree: devices and their
certificates, the registries of TPMs and attestation keys, uses of join tokens, revisions
and objects, and all counters. It verifies the hub's signatures of all certificates, and
the hashes. It also checks that each object is stored with its size; with --contents, it
reads all objects, and compares their SHA-256. docs/fsck.md lists the faults that fsck
finds, and those that no check can find. Fsck repairs nothing. The hub may be running;
then fsck cannot check objects in a folder.

A fault of a disk or of the memory, or a program that changes the database, can cause a
finding. Each finding names some of the rows, and a remedy. The exit code is 1 if a
finding is a problem, and 0 otherwise.`,
		Example: `  gangway fsck --data /var/lib/gangway
  gangway fsck --data /var/lib/gangway --contents
  gangway fsck --data ./hub --output json`,
		RunE: func(c *cobra.Command, _ []string) error {
			i, err := existing(c.Context(), data)
			if err != nil {
				return err
			}
			defer i.close()
			gone, err := i.objectsGone(c.Context(), s3)
			if err != nil {
				return err
			}
			if gone {
				return fmt.Errorf("%s does not exist, but owners have uploaded objects: restore the folder from its backup, or name the bucket with --s3-endpoint and --s3-bucket", filepath.Join(data, objectFolder))
			}
			// If a hub has the folder open, openObjects returns EWOULDBLOCK and i.objects stays
			// nil, so Fsck does not check the objects.
			if err := i.openObjects(c.Context(), s3); err != nil && !errors.Is(err, syscall.EWOULDBLOCK) {
				return err
			}
			findings, err := doctor.Fsck(c.Context(), i.engine, i.objects, contents)
			if err != nil {
				return err
			}
			identities, err := doctor.Identities(c.Context(), i.engine, i.ca)
			if err != nil {
				return err
			}
			findings = append(findings, identities...)
			done, err := a.json(findings)
			if !done {
				err = finding.Write(a.stdout, visibleFindings(findings), a.findingPainter())
			}
			if err == nil && finding.Worst(findings) == finding.Problem {
				err = errFindings
			}
			return err
		},
	}
	c.Flags().StringVar(&data, "data", "", "folder of the hub's keys and database (required)")
	c.Flags().BoolVar(&contents, "contents", false, "read all objects, and verify their SHA-256")
	addS3Flags(c.Flags(), &s3)
	return c
}

// addS3Flags adds the flags for a bucket that stores the objects.
func addS3Flags(f *pflag.FlagSet, s3 *objects.S3Config) {
	f.StringVar(&s3.Endpoint, "s3-endpoint", "", "https URL of an S3 service that stores the objects (default: the folder DIR/objects)")
	f.StringVar(&s3.Bucket, "s3-bucket", "", "existing bucket for the objects")
	f.StringVar(&s3.Region, "s3-region", "", "region of the bucket, if the service does not report it")
	f.StringVar(&s3.Prefix, "s3-prefix", "", `prefix of the objects' keys; no other hub may use it (default: "gangway-" and the beginning of the hub name)`)
}
