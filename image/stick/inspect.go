package stick

import (
	"bytes"
	"debug/pe"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"gangway/device/install"
	"gangway/device/install/netfile"
	"gangway/image/authenticode"
	"gangway/image/secureboot"

	"github.com/diskfs/go-diskfs"
)

// Contents describes what an image contains and what it does to a machine.
type Contents struct {
	Manifest *install.Manifest `json:"manifest"`
	// ManifestSHA256 is the manifest's SHA-256 in hexadecimal. The command line of each entry
	// contains it.
	ManifestSHA256 string  `json:"manifest-sha256"`
	Entries        []Entry `json:"entries"`
	// Signed reports whether every program that firmware starts has a signature.
	Signed bool `json:"signed"`
	// Enrols maps each Secure Boot variable to the certificates that firmware in setup mode enrols
	// in it. Each certificate is described by its subject and its SHA-256.
	Enrols map[secureboot.Variable][]string `json:"enrols,omitempty"`
	// Network contains the network settings, one string per line, with passwords masked.
	// NetworkMistake is an error in these settings, or empty. An installer whose settings have an
	// error installs nothing.
	Network        []string `json:"network,omitempty"`
	NetworkMistake string   `json:"network-mistake,omitempty"`
	// Token is the join token, with its secret masked.
	Token map[string]any `json:"token,omitempty"`
}

// Entry is an entry of the image's boot menu.
type Entry struct {
	Title   string `json:"title"`
	File    string `json:"file"`
	Cmdline string `json:"cmdline"`
	SHA256  string `json:"sha256"` // SHA-256 of the unified kernel image, hexadecimal
}

// Inspect reads and checks an image file. Each part must match its hash in the manifest. The
// command line of each entry must contain this manifest's hash, and the mode (installing or wiping)
// that fits the manifest. If `cert` is the name of a certificate file, Inspect also checks that
// this certificate signed every program that firmware starts, from the image and from the installed
// disk.
func Inspect(name, cert string) (*Contents, error) {
	d, err := diskfs.Open(name, diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	defer d.Close()
	esp, err := d.GetFilesystem(1)
	if err != nil {
		return nil, errors.Join(errNotInstaller, err)
	}
	manifest, err := read(esp, install.ManifestPath, mib)
	if err != nil {
		return nil, errors.Join(errNotInstaller, err)
	}
	c := &Contents{ManifestSHA256: digest(manifest)}
	if c.Manifest, err = install.ParseManifest(manifest); err != nil {
		return nil, err
	}
	for _, p := range c.Manifest.Parts {
		packed, err := read(esp, p.File, p.Packed())
		if err != nil {
			return nil, err
		}
		if digest(packed) != p.SHA256 {
			return nil, fmt.Errorf("image: %s does not match its SHA-256 in the manifest: the image is damaged, so build or download the image again", p.File)
		}
		if p.Name != install.ESP {
			continue
		}
		fat, err := openFAT(p, packed)
		if err != nil {
			return nil, err
		}
		if c.Token, err = maskedToken(fat, c.Manifest.Token != ""); err != nil {
			return nil, err
		}
		if c.Signed, err = signatures(fat, cert); err != nil {
			return nil, err
		}
	}
	signed, err := signatures(esp, cert)
	if err != nil {
		return nil, err
	}
	if err := c.readKeys(esp); err != nil {
		return nil, err
	}
	c.Signed = signed && (c.Signed || c.Manifest.Reset)
	if err := c.readEntries(esp); err != nil {
		return nil, err
	}
	return c, c.readNetwork(esp)
}

// readNetwork reads the image's network settings. A person may have edited them, so mistakes are
// expected.
func (c *Contents) readNetwork(esp fs.FS) error {
	files, err := fs.ReadDir(esp, ".")
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	for _, f := range files {
		if !strings.EqualFold(f.Name(), netfile.Name) || c.Manifest.Reset {
			continue
		}
		info, err := f.Info()
		if err != nil || info.Size() == 0 {
			return err
		}
		if info.Size() > netfile.MaxFile {
			c.NetworkMistake = fmt.Sprintf("%s has %d bytes; at most %d are allowed", netfile.Name, info.Size(), netfile.MaxFile)
			return nil
		}
		text, err := read(esp, f.Name(), netfile.MaxFile)
		if err != nil {
			return err
		}
		s, err := netfile.Parse(text)
		if err != nil {
			c.NetworkMistake = err.Error()
			return nil
		}
		c.Network = s.Masked()
	}
	return nil
}

// readKeys reads the Secure Boot keys that firmware would enrol. They must be the keys that the
// manifest names.
func (c *Contents) readKeys(esp fs.FS) error {
	there, err := keyFiles(esp)
	if err != nil {
		return err
	}
	e := c.Manifest.Enrol
	var named []string
	if e != nil {
		for v := range e.SHA256 {
			named = append(named, keyFile(secureboot.Variable(v)))
		}
	}
	slices.Sort(named)
	if !slices.Equal(there, named) {
		return fmt.Errorf("image: the image has the Secure Boot keys %q, but its manifest names the keys %q: do not use this image", there, named)
	}
	if e == nil {
		return nil
	}
	signed := map[secureboot.Variable][]byte{}
	for v, sum := range e.SHA256 {
		name := keyFile(secureboot.Variable(v))
		b, err := read(esp, name, mib)
		if err != nil {
			return err
		}
		if digest(b) != sum {
			return fmt.Errorf("image: %s does not match its SHA-256 in the manifest: the image is damaged, so build or download the image again", name)
		}
		signed[secureboot.Variable(v)] = b
	}
	set, err := secureboot.NewSet(signed)
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	c.Enrols = map[secureboot.Variable][]string{}
	for v, certs := range set.Certificates {
		for _, cert := range certs {
			c.Enrols[v] = append(c.Enrols[v], authenticode.Name(cert))
		}
	}
	return nil
}

// keyFiles returns the names of all files from which the boot manager could enrol keys, sorted.
func keyFiles(esp fs.FS) (names []string, err error) {
	const keys = "loader/keys"
	err = fs.WalkDir(esp, path.Dir(keys), func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if len(name) > len(keys) && strings.EqualFold(name[:len(keys)+1], keys+"/") {
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	slices.Sort(names)
	return names, nil
}

// The function `signatures` reports whether every program that firmware starts from an EFI system
// partition has a signature. If `cert` is the name of a certificate file, a program that this
// certificate did not sign is an error.
func signatures(esp fs.FS, cert string) (signed bool, err error) {
	const manager, systems = "EFI/BOOT/BOOTX64.EFI", "EFI/Linux"
	files, err := fs.ReadDir(esp, systems)
	if err != nil {
		return false, errors.Join(errNotInstaller, err)
	}
	signed = true
	names := []string{manager}
	for _, f := range files {
		names = append(names, path.Join(systems, f.Name()))
	}
	for _, name := range names {
		b, err := read(esp, name, 1<<30)
		if err != nil {
			return false, err
		}
		signed = signed && authenticode.Signed(b)
		if cert == "" {
			continue
		}
		if err := authenticode.Verify(b, cert); err != nil {
			return false, fmt.Errorf("%s: %w", name, err)
		}
	}
	return signed, nil
}

func (c *Contents) readEntries(esp fs.FS) error {
	files, err := fs.ReadDir(esp, "EFI/Linux")
	if err != nil {
		return errors.Join(errNotInstaller, err)
	}
	for _, f := range files {
		name := path.Join("EFI/Linux", f.Name())
		b, err := read(esp, name, 1<<30)
		if err != nil {
			return err
		}
		e := Entry{File: name, SHA256: digest(b)}
		x, err := pe.NewFile(bytes.NewReader(b))
		if err != nil {
			return fmt.Errorf("image: %s: %w", name, err)
		}
		e.Cmdline = part(x, ".cmdline")
		_, title, _ := strings.Cut(part(x, ".osrel"), "PRETTY_NAME=\"")
		e.Title, _, _ = strings.Cut(title, "\"")
		words := strings.Fields(e.Cmdline)
		if !slices.Contains(words, "gangway.manifest="+c.ManifestSHA256) || slices.Contains(words, "gangway.mode=reset") != c.Manifest.Reset {
			return fmt.Errorf("image: the command line of %s does not name the manifest and the mode of this image: the image is damaged, so build or download the image again", name)
		}
		c.Entries = append(c.Entries, e)
	}
	return nil
}

// part returns the text in a section of a unified kernel image.
func part(x *pe.File, name string) string {
	s := x.Section(name)
	if s == nil {
		return ""
	}
	b, err := s.Data()
	if err != nil {
		return ""
	}
	return string(b[:min(int(s.VirtualSize), len(b))])
}

// maskedToken returns the join token in the installed system's EFI system partition, with its
// secret masked. `named` reports whether the manifest names a token. If the manifest names no
// token, a token in the partition is an error.
func maskedToken(esp fs.FS, named bool) (map[string]any, error) {
	if !named {
		files, err := fs.ReadDir(esp, path.Dir(install.TokenPath))
		if err != nil {
			return nil, fmt.Errorf("image: reading the system's EFI system partition: %w", err)
		}
		for _, f := range files {
			if strings.EqualFold(f.Name(), path.Base(install.TokenPath)) {
				return nil, errors.New("image: the image contains a join token that its manifest does not name: do not use this image")
			}
		}
		return nil, nil
	}
	b, err := read(esp, install.TokenPath, 1<<20)
	if err != nil {
		return nil, err
	}
	var token map[string]any
	if err := json.Unmarshal(b, &token); err != nil {
		return nil, fmt.Errorf("image: parsing the join token: %w", err)
	}
	token["token"] = "********"
	return token, nil
}

// The function `read` reads a whole file with one call. go-diskfs 1.9.4 loses its position in a
// file if a caller reads it in pieces.
func read(from fs.FS, name string, limit int64) ([]byte, error) {
	info, err := fs.Stat(from, name)
	if err != nil {
		return nil, fmt.Errorf("image: %s: %w", name, err)
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("image: %s has more than %d bytes", name, limit)
	}
	f, err := from.Open(name)
	if err != nil {
		return nil, fmt.Errorf("image: %s: %w", name, err)
	}
	defer f.Close()
	b := make([]byte, info.Size())
	if n, err := f.Read(b); n != len(b) || (err != nil && err != io.EOF) {
		return nil, fmt.Errorf("image: reading %s: %d of %d bytes: %w", name, n, len(b), err)
	}
	return b, nil
}
