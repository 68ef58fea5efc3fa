package main

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goreleaser/nfpm/v2"
	"github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
)

// maintainer is the Maintainer field of the packages.
const maintainer = "Gangway maintainers <maintainers@gangway.invalid>"

// debPackage is one of the Debian packages.
type debPackage struct {
	name, description             string
	depends, recommends, suggests []string
	files                         []file
}

// imageTarget is the architecture of the machines for which installer images are built.
const imageTarget = "amd64"

func (r *release) hubPackage(arch string) (debPackage, error) {
	unit, err := r.packagedUnit()
	if err != nil {
		return debPackage{}, err
	}
	p := debPackage{
		name: "gangway",
		description: `hub for zero-touch onboarding of machines with a TPM 2.0
Gangway onboards machines with a TPM 2.0 to their owner's hub, without a person
at the machine. This package has the hub, a systemd unit for the hub, and the
command gangway for fleet owners, which also makes installer images.`,
		depends:    []string{"adduser"},
		recommends: []string{"ca-certificates"},
		suggests:   []string{"e2fsprogs", "systemd-boot-efi", "osslsigncode", "cabextract"},
		files: []file{
			{source: r.program(arch, "gangway"), path: "/usr/bin/gangway", mode: 0o755},
			// `gangway image build` copies these two programs into installer images.
			{source: r.program(imageTarget, "gangway-agent"), path: "/usr/lib/gangway/gangway-agent", mode: 0o755},
			{source: r.program(imageTarget, "gangway-init"), path: "/usr/lib/gangway/gangway-init", mode: 0o755},
			{source: unit, path: "/usr/lib/systemd/system/gangway.service", mode: 0o644},
			{source: r.contrib("debian/gangway.default"), path: "/etc/default/gangway", mode: 0o644, config: true},
		},
	}
	err = r.addDocs(&p)
	return p, err
}

func (r *release) agentPackage(arch string) (debPackage, error) {
	p := debPackage{
		name: "gangway-agent",
		description: `device agent of Gangway, for machines with a TPM 2.0
The agent onboards this machine to a Gangway hub, with an identity whose key
never leaves the machine's TPM, and keeps it connected. It needs a join token
of the machine's owner in /etc/gangway/device_autojointoken.json.`,
		suggests: []string{"tpm-udev"},
		files: []file{
			{source: r.program(arch, "gangway-agent"), path: "/usr/bin/gangway-agent", mode: 0o755},
			{path: "/etc/gangway", mode: 0o755},
			{source: r.contrib("gangway-agent.service"), path: "/usr/lib/systemd/system/gangway-agent.service", mode: 0o644},
			{source: r.contrib("gangway-proxy.service"), path: "/usr/lib/systemd/system/gangway-proxy.service", mode: 0o644},
			{source: r.contrib("debian/gangway-agent.default"), path: "/etc/default/gangway-agent", mode: 0o644, config: true},
		},
	}
	err := r.addDocs(&p)
	return p, err
}

func (r *release) signerPackage() (debPackage, error) {
	libc, err := libcOf(r.program(signerArch, "gangway-signer"))
	if err != nil {
		return debPackage{}, err
	}
	p := debPackage{
		name: "gangway-signer",
		description: `keys of a Gangway hub in an HSM or a cloud
The signer holds the connection to an HSM, through the HSM's PKCS #11 module,
or to the key service of a cloud, and signs for the hub on this machine at a
Unix socket.`,
		// The package gangway creates the group whose members may open the signer's socket.
		depends:  []string{"adduser", "gangway", libc},
		suggests: []string{"softhsm2"},
		files: []file{
			{source: r.program(signerArch, "gangway-signer"), path: "/usr/bin/gangway-signer", mode: 0o755},
			{path: "/etc/gangway-signer", mode: 0o700},
			{source: r.contrib("gangway-signer.service"), path: "/usr/lib/systemd/system/gangway-signer.service", mode: 0o644},
			{source: r.contrib("debian/gangway-signer.default"), path: "/etc/default/gangway-signer", mode: 0o644, config: true},
		},
	}
	err = r.addDocs(&p)
	return p, err
}

// libcOf returns the dependency on the C library for a program: the newest version of glibc whose
// symbols the program uses. The program is linked with the building machine's C library, which may
// be newer than the C library of the machine on which the package is installed.
func libcOf(path string) (string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	needs, err := f.DynamicVersionNeeds()
	if err != nil {
		return "", err
	}
	major, minor := 0, 0
	for _, library := range needs {
		for _, need := range library.Needs {
			var a, b int
			if n, _ := fmt.Sscanf(need.Dep, "GLIBC_%d.%d", &a, &b); n == 2 && (a > major || a == major && b > minor) {
				major, minor = a, b
			}
		}
	}
	if major == 0 {
		return "", fmt.Errorf("%s does not use glibc", path)
	}
	return fmt.Sprintf("libc6 (>= %d.%d)", major, minor), nil
}

func (r *release) contrib(name string) string { return filepath.Join(r.root, "contrib", name) }

// packagedUnit writes the hub's systemd unit for the package. The package creates the user, so
// systemd must not create one at each start.
func (r *release) packagedUnit() (string, error) {
	b, err := os.ReadFile(r.contrib("gangway.service"))
	if err != nil {
		return "", err
	}
	const dynamic = "# With DynamicUser=, systemd allocates the user at each start. The Debian package\n" +
		"# creates the user itself, so the unit in the package does not have DynamicUser=.\n" +
		"User=gangway\nDynamicUser=yes\n"
	if strings.Count(string(b), dynamic) != 1 {
		return "", errors.New("gangway.service does not have the lines about DynamicUser=")
	}
	unit := strings.Replace(string(b), dynamic, "User=gangway\n", 1)
	path := filepath.Join(r.work, "gangway.service")
	return path, os.WriteFile(path, []byte(unit), 0o644)
}

// addDocs adds man pages, completions, license and changelog.
func (r *release) addDocs(p *debPackage) error {
	share, err := tree(r.share(p.name), "/usr/share")
	if err != nil {
		return err
	}
	p.files = append(p.files, share...)
	doc := "/usr/share/doc/" + p.name + "/"
	changelog := fmt.Sprintf("%s (%s) unstable; urgency=medium\n\n  * Release of commit %s.\n\n -- %s  %s\n",
		p.name, r.version, r.commit, maintainer, r.date.Format(time.RFC1123Z))
	const copyright = `Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: Gangway

Files: *
Copyright: 2026 the Gangway authors
License: Apache-2.0
 On Debian systems the license is in /usr/share/common-licenses/Apache-2.0.
`
	for name, content := range map[string][]byte{"changelog.gz": compressed([]byte(changelog)), "copyright": []byte(copyright)} {
		source := filepath.Join(r.work, p.name+"-"+name)
		if err := os.WriteFile(source, content, 0o644); err != nil {
			return err
		}
		p.files = append(p.files, file{source: source, path: doc + name, mode: 0o644})
	}
	return nil
}

func (r *release) writeDebs(context.Context) error {
	for _, arch := range r.archs {
		for _, content := range []func(string) (debPackage, error){r.hubPackage, r.agentPackage} {
			p, err := content(arch)
			if err == nil {
				err = r.writeDeb(p, arch)
			}
			if err != nil {
				return fmt.Errorf("%s, %s: %w", p.name, arch, err)
			}
		}
	}
	if !r.signer {
		return nil
	}
	p, err := r.signerPackage()
	if err != nil {
		return err
	}
	return r.writeDeb(p, signerArch)
}

func (r *release) writeDeb(p debPackage, arch string) error {
	info := &nfpm.Info{
		Name: p.name, Arch: arch, Platform: "linux",
		Version: r.version, VersionSchema: "semver",
		Section: "admin", Priority: "optional", Maintainer: maintainer,
		Description: p.description, License: "Apache-2.0",
		MTime: r.date, DisableGlobbing: true,
		Overridables: nfpm.Overridables{
			Depends: p.depends, Recommends: p.recommends, Suggests: p.suggests,
			Scripts: nfpm.Scripts{
				PostInstall: r.contrib("debian/" + p.name + ".postinst"),
				PreRemove:   r.contrib("debian/" + p.name + ".prerm"),
				PostRemove:  r.contrib("debian/" + p.name + ".postrm"),
			},
		},
	}
	for _, f := range p.files {
		c := &files.Content{Source: f.source, Destination: f.path, FileInfo: &files.ContentFileInfo{Owner: "root", Group: "root", Mode: f.mode, MTime: r.date}}
		switch {
		case f.config:
			c.Type = files.TypeConfig
		case f.source == "":
			c.Type = files.TypeDir
		}
		info.Contents = append(info.Contents, c)
	}
	info = nfpm.WithDefaults(info)
	out, err := os.Create(filepath.Join(r.out, deb.Default.ConventionalFileName(info)))
	if err != nil {
		return err
	}
	return errors.Join(deb.Default.Package(info, out), out.Close())
}
