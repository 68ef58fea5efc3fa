package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"gangway/device/install/escrow"

	"github.com/spf13/cobra"
)

// maxIdentity is the maximum size of an age identity file, in bytes.
const maxIdentity = 64 << 10

func readIdentity(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxIdentity+1))
	if err == nil && len(b) > maxIdentity {
		err = fmt.Errorf("%s is not an age identity file, because it is larger than %d bytes: give the file of 'gangway image escrow-key'", path, maxIdentity)
	}
	return string(b), err
}

// publicLine is the beginning of the comment line that contains an identity's recipient. age-keygen
// and escrow-key write this line above the identity.
const publicLine = "# public key: "

// escrowTo returns the recipient for a value of --escrow-to. The value is a recipient, or the name
// of an identity file with the recipient in a comment line. For an empty value, the recipient is
// empty.
func escrowTo(what string) (string, error) {
	if what == "" || strings.HasPrefix(what, "age1") {
		if what == "" {
			return "", nil
		}
		return what, escrow.CheckRecipient(what)
	}
	text, err := readIdentity(what)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(text) {
		if r, ok := strings.CutPrefix(strings.TrimSpace(line), publicLine); ok {
			return r, escrow.CheckRecipient(r)
		}
	}
	return "", fmt.Errorf("%s has no line with a public key; give the recipient itself, which begins with age1", what)
}

func (a *app) imageEscrowKey() *cobra.Command {
	return &cobra.Command{
		Use:   "escrow-key FILE",
		Short: "Create the key that decrypts the recovery keys of encrypted disks",
		Long: `Escrow-key creates an age identity, as age-keygen does, and prints its recipient. If
an image is built with --escrow-to, its machines store the recovery keys of their
encrypted disks on the hub, encrypted to this recipient. The hub cannot read these
keys. 'gangway device recovery-key' decrypts a recovery key, with the identity file.

Anyone with the file can open the disks. Keep the file offline, and do not lose it.`,
		Example: "  gangway image escrow-key recovery.key\n  gangway image build x64-uefi-installer --token-file t.json --escrow-to recovery.key -o installer.img",
		Args:    args("FILE"),
		RunE: func(_ *cobra.Command, arg []string) error {
			return a.createAgeIdentity(arg[0])
		},
	}
}

// createAgeIdentity writes a new age identity to a file, and prints its recipient.
func (a *app) createAgeIdentity(path string) error {
	identity, recipient, err := escrow.NewIdentity()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // O_EXCL: never overwrite a key
	if err != nil {
		return err
	}
	_, err = f.WriteString(publicLine + recipient + "\n" + identity + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if done, err := a.json(map[string]string{"recipient": recipient}); done {
		return err
	}
	a.printf("%s\n", recipient)
	return nil
}

func (a *app) deviceRecoveryKey() *cobra.Command {
	var identity string
	c := &cobra.Command{
		Use:   "recovery-key ID|NICK --identity FILE",
		Short: "Show the recovery key of a device's encrypted disk",
		Long: `Recovery-key decrypts and prints the recovery key of a device's encrypted disk. If
the device's image was built with --escrow-to, the device stored the key on the hub.
'cryptsetup open' opens the disk with the recovery key.`,
		Example: "  gangway device recovery-key brave-otter-3fa2 --identity recovery.key",
		Args:    args("the device's id or nick"),
		RunE: func(c *cobra.Command, arg []string) error {
			if identity == "" {
				return usagef("--identity is needed: the file from 'gangway image escrow-key'")
			}
			text, err := readIdentity(identity)
			if err != nil {
				return err
			}
			d, err := findDevice(c.Context(), arg[0])
			if err != nil {
				return err
			}
			meta, err := call[map[string]any](c.Context(), "GET", "/devices/"+d.ID+"/device-meta", nil)
			if err != nil {
				return err
			}
			sealed, ok := meta[escrow.MetaKey].(string)
			if !ok {
				return fmt.Errorf("%s has not sent a recovery key: its disk is not encrypted, or its image was built without --escrow-to", d.Nick)
			}
			key, err := escrow.Open(text, sealed)
			if err != nil {
				return err
			}
			if done, err := a.json(map[string]string{"recovery-key": key}); done {
				return err
			}
			a.printf("%s\n", key)
			return nil
		},
	}
	c.Flags().StringVar(&identity, "identity", "", "file of the age identity (required)")
	return c
}
