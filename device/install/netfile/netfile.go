// Package netfile parses and formats network.txt, the file of a machine's network settings. It is a
// text file, so that a person can edit it on any computer. `gangway image build` writes the file to
// the stick, the installed machine stores it, and the machine's owner can set other settings at the
// hub. All of them parse the file with Parse or Read. The method Text is the inverse: Parse returns
// the same settings from its text. The package opens no files itself.
//
// A file is UTF-8 text. Lines end with LF or CRLF. Empty lines and lines that begin with # are
// ignored. Every other line is KEY = VALUE, or belongs to a certificate in PEM:
//
//	version = 1                      required, first
//	interface = eth0                 a name or a MAC address; default: the first that works
//	vlan = 42                        IEEE 802.1Q, 1 to 4094; default: none
//	mtu = 1280                       bytes, 1280 to 9216; default: the network's
//	address = 192.0.2.10/24          static; IPv4 or IPv6, one of each; default: automatic
//	gateway = 192.0.2.1              one of each family that has an address
//	dns = 192.0.2.53                 up to 3; they replace those of the network
//	ntp = ntp.example                up to 3, a name or an address
//	proxy = http://NAME:PASSWORD@proxy.example:3128
//	-----BEGIN CERTIFICATE-----      the CA of an https proxy; up to 4
//
// If the file sets a static address of one family (IPv4 or IPv6), the machine does not configure
// that family automatically; the other family stays automatic. The CA is trusted only for the
// proxy: machines verify the hub by the hub's own CA.
package netfile

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Name is the file's name on a stick.
const Name = "network.txt"

// Version is the version of the format, and the value of the file's first setting.
const Version = 1

// Bounds of a file.
const (
	MaxFile = 16 << 10 // bytes
	maxList = 3        // maximum number of name servers, and of time servers
	maxCAs  = 4
	minMTU  = 1280 // RFC 8200, section 5
	maxMTU  = 9216
	maxName = 253 // RFC 1035
)

// Settings are the settings of a file. The zero value has no settings; the machine then configures
// itself by DHCP and IPv6 router advertisements.
type Settings struct {
	// Interface is a name ("eth0"), or a MAC address in lower case ("52:54:00:12:34:56").
	// Empty: the first interface that works.
	Interface string
	VLAN      int // 0: none
	MTU       int // bytes; 0: the network's MTU
	// Addresses are static addresses: at most one IPv4 and one IPv6 address. A gateway is in the
	// network of the static address of the same family, or is link-local.
	Addresses []netip.Prefix
	Gateways  []netip.Addr
	DNS       []netip.Addr
	NTP       []string // host names or addresses
	// Proxy is an http or https URL with a port and without a path. Nil: no proxy.
	Proxy *url.URL
	// ProxyCA has the CAs that may issue the certificate of an https Proxy.
	ProxyCA []*x509.Certificate
}

// Mistake is the error of an invalid file. The error's text never quotes the proxy's URL, because
// the URL may contain a password.
type Mistake struct {
	Line int // counted from 1; 0: the whole file
	Text string
}

func (m *Mistake) Error() string {
	if m.Line == 0 {
		return Name + ": " + m.Text
	}
	return fmt.Sprintf("%s, line %d: %s", Name, m.Line, m.Text)
}

// Parse parses a file. For a file that is empty or has only comments, it returns the zero value.
// Its error is a *Mistake, which explains what to write instead.
func Parse(text []byte) (*Settings, error) {
	if len(text) > MaxFile {
		return nil, &Mistake{0, fmt.Sprintf("the file has %d bytes; write at most %d", len(text), MaxFile)}
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // some editors write a byte order mark
	if !utf8.Valid(text) || bytes.IndexByte(text, 0) >= 0 {
		return nil, &Mistake{0, "the file is not UTF-8 text; save it as plain text in UTF-8"}
	}
	p := parser{seen: map[string]bool{}}
	lines := strings.Split(string(text), "\n")
	for n := 0; n < len(lines); n++ {
		line := strings.TrimSpace(lines[n])
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if strings.HasPrefix(line, "-----") {
			end := n
			for end < len(lines) && strings.TrimSpace(lines[end]) != pemEnd {
				end++
			}
			if err := p.certificate(lines[n:min(end+1, len(lines))]); err != nil {
				return nil, &Mistake{n + 1, err.Error()}
			}
			n = end
			continue
		}
		if err := p.setting(line); err != nil {
			return nil, &Mistake{n + 1, err.Error()}
		}
	}
	if err := p.checkTogether(); err != nil {
		return nil, &Mistake{0, err.Error()}
	}
	return &p.s, nil
}

// Read reads a file and parses it with Parse. It reads at most one byte more than a file may have.
func Read(r io.Reader) (*Settings, error) {
	text, err := io.ReadAll(io.LimitReader(r, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the network settings: %w", err)
	}
	return Parse(text)
}

const (
	pemBegin = "-----BEGIN CERTIFICATE-----"
	pemEnd   = "-----END CERTIFICATE-----"
)

type parser struct {
	s    Settings
	seen map[string]bool
}

var keys = "version, interface, vlan, mtu, address, gateway, dns, ntp and proxy"

// repeatable lists the keys that may occur more than once.
var repeatable = []string{"address", "gateway", "dns", "ntp"}

func (p *parser) setting(line string) error {
	key, value, ok := strings.Cut(line, "=")
	key, value = strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(value)
	if !ok || strings.ContainsFunc(key, func(r rune) bool { return (r < 'a' || r > 'z') && r != '-' }) {
		// The line may be a part of a proxy's URL with a password, so the error does not
		// quote it.
		return fmt.Errorf("the line is not KEY = VALUE; the keys are %s, and a comment begins with #", keys)
	}
	set := map[string]func(string) error{
		"version": p.version, "interface": p.interfaceName, "vlan": p.vlan, "mtu": p.mtu,
		"address": p.address, "gateway": p.gateway, "dns": p.dns, "ntp": p.ntp, "proxy": p.proxy,
	}[key]
	switch {
	case set == nil:
		return fmt.Errorf("there is no setting %.40q; the keys are %s", key, keys)
	case value == "":
		return fmt.Errorf("%s has no value; write one, or remove the line", key)
	case !p.seen["version"] && key != "version":
		return fmt.Errorf("the first setting must be version = %d", Version)
	case p.seen[key] && !slices.Contains(repeatable, key):
		return fmt.Errorf("%s is set twice; remove one", key)
	}
	p.seen[key] = true
	return set(value)
}

func (p *parser) version(v string) error {
	if v != strconv.Itoa(Version) {
		return fmt.Errorf("version %.20q is not supported; write version = %d, or update this machine", v, Version)
	}
	return nil
}

// interfaceName accepts a name that Linux accepts (dev_valid_name), or a MAC address.
func (p *parser) interfaceName(v string) error {
	if mac, ok := macAddress(v); ok {
		p.s.Interface = mac
		return nil
	}
	if len(v) > 15 || v == "." || v == ".." || v == "lo" || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' || r == ':' || r == '%' }) {
		return fmt.Errorf("interface %.40q is not a name like eth0, nor a MAC address like 52:54:00:12:34:56", v)
	}
	p.s.Interface = v
	return nil
}

// macAddress parses six bytes in hexadecimal, separated by colons or dashes.
func macAddress(v string) (mac string, ok bool) {
	v = strings.ToLower(strings.ReplaceAll(v, "-", ":"))
	parts := strings.Split(v, ":")
	if len(parts) != 6 {
		return "", false
	}
	for _, part := range parts {
		if _, err := strconv.ParseUint(part, 16, 8); err != nil || len(part) != 2 {
			return "", false
		}
	}
	return v, true
}

// The function `number` parses a decimal number without a sign or leading zeros.
func number(v string, least, most int) (int, bool) {
	n, err := strconv.Atoi(v)
	return n, err == nil && strconv.Itoa(n) == v && n >= least && n <= most
}

func (p *parser) vlan(v string) (err error) {
	var ok bool
	if p.s.VLAN, ok = number(v, 1, 4094); !ok {
		return fmt.Errorf("vlan %.20q is not a VLAN id; write a number from 1 to 4094", v)
	}
	return nil
}

func (p *parser) mtu(v string) error {
	var ok bool
	if p.s.MTU, ok = number(v, minMTU, maxMTU); !ok {
		return fmt.Errorf("mtu %.20q is out of range; write a number of bytes from %d to %d", v, minMTU, maxMTU)
	}
	return nil
}

// The function `unicast` reports whether an address can be the address of a machine or a server.
func unicast(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !a.Is4In6() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func (p *parser) address(v string) error {
	a, err := netip.ParsePrefix(v)
	switch {
	case err != nil && !strings.Contains(v, "/"):
		return fmt.Errorf("address %.60q has no prefix length; write it as 192.0.2.10/24 or 2001:db8::10/64", v)
	case err != nil || !unicast(a.Addr()) || a.Bits() == 0:
		return fmt.Errorf("address %.60q cannot be the address of a machine; write it as 192.0.2.10/24 or 2001:db8::10/64", v)
	case a.Addr().IsLinkLocalUnicast() && a.Addr().Is6():
		return fmt.Errorf("address %.60q is link-local, so it reaches no other network; write a global address, or remove the line", v)
	case a.Addr().Is4() && a.Bits() < 31 && (a.Addr() == a.Masked().Addr() || a.Addr() == broadcast(a)):
		return fmt.Errorf("address %.60q is the address of the network itself, or its broadcast address; write a machine's address in that network", v)
	case slices.ContainsFunc(p.s.Addresses, func(b netip.Prefix) bool { return b.Addr().Is4() == a.Addr().Is4() }):
		return fmt.Errorf("there are two addresses of one family; write at most one IPv4 address and one IPv6 address")
	}
	p.s.Addresses = append(p.s.Addresses, a)
	return nil
}

// broadcast returns the last address of an IPv4 network.
func broadcast(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}

func (p *parser) gateway(v string) error {
	a, err := netip.ParseAddr(v)
	switch {
	case err != nil || !unicast(a) || a.Zone() != "":
		return fmt.Errorf("gateway %.60q is not an address; write it as 192.0.2.1 or fe80::1", v)
	case slices.ContainsFunc(p.s.Gateways, func(b netip.Addr) bool { return b.Is4() == a.Is4() }):
		return fmt.Errorf("there are two gateways of one family; write at most one IPv4 address and one IPv6 address")
	}
	p.s.Gateways = append(p.s.Gateways, a)
	return nil
}

func (p *parser) dns(v string) error {
	a, err := netip.ParseAddr(v)
	switch {
	case err != nil || !unicast(a) || a.Zone() != "":
		return fmt.Errorf("dns %.60q is not an address; write addresses like 192.0.2.53, one on each line", v)
	case a.Is6() && a.IsLinkLocalUnicast():
		return fmt.Errorf("dns %.60q is link-local; write the global address of a name server", v)
	case len(p.s.DNS) == maxList:
		return fmt.Errorf("there are more than %d name servers; write at most %d", maxList, maxList)
	}
	p.s.DNS = append(p.s.DNS, a)
	return nil
}

// isHost reports whether a text is an IP address or a host name (RFC 1123).
func isHost(v string) bool {
	if a, err := netip.ParseAddr(v); err == nil {
		return unicast(a) && a.Zone() == ""
	}
	if len(v) > maxName {
		return false
	}
	labels := strings.Split(v, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.ContainsFunc(label, func(r rune) bool {
				return (r|0x20 < 'a' || r|0x20 > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
			}) {
			return false
		}
	}
	_, err := strconv.Atoi(labels[len(labels)-1])
	return err != nil // 192.0.2 looks like an incomplete address, so it is not a host name
}

func (p *parser) ntp(v string) error {
	switch {
	case !isHost(v):
		return fmt.Errorf("ntp %.60q is not a host; write host names or addresses, one on each line", v)
	case len(p.s.NTP) == maxList:
		return fmt.Errorf("there are more than %d time servers; write at most %d", maxList, maxList)
	}
	p.s.NTP = append(p.s.NTP, v)
	return nil
}

// The method `proxy` parses the proxy's URL. Its errors do not quote the URL, because the URL may
// contain a password.
func (p *parser) proxy(v string) error {
	u, err := ParseProxy(v)
	p.s.Proxy = u
	return err
}

// ParseProxy parses a proxy's URL: http or https, a host, a port, and optionally a name and a
// password. The error does not quote the URL.
func ParseProxy(v string) (*url.URL, error) {
	const form = "write the proxy as http://proxy.example:3128, or with a name and password as http://NAME:PASSWORD@proxy.example:3128"
	if strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r == 0x7F }) {
		return nil, fmt.Errorf("proxy has a space or control character in it; %s", form)
	}
	u, err := url.Parse(v)
	if err != nil {
		return nil, fmt.Errorf("proxy is not a URL; %s. Characters like / @ # %% in a password are written as %%2F %%40 %%23 %%25", form)
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("proxy begins neither with http:// nor with https://; %s", form)
	}
	if _, ok := number(u.Port(), 1, 65535); !ok {
		return nil, fmt.Errorf("proxy has no port; %s", form)
	}
	if !isHost(u.Hostname()) || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "" {
		return nil, fmt.Errorf("proxy has no valid host, or has more than a host and a port; %s", form)
	}
	if name, password := u.User.Username(), ""; u.User != nil {
		password, _ = u.User.Password()
		if name == "" || strings.Contains(name, ":") || strings.ContainsFunc(name+password, func(r rune) bool { return r < ' ' || r == 0x7F }) {
			return nil, fmt.Errorf("proxy has a password without a name, or control characters in its name or password; %s", form)
		}
	}
	u.Path = ""
	return u, nil
}

func (p *parser) certificate(lines []string) error {
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	if lines[0] != pemBegin {
		if strings.Contains(lines[0], "PRIVATE KEY") {
			return fmt.Errorf("a private key does not belong here; remove it, and write the CA's certificate only")
		}
		return fmt.Errorf("only certificates are allowed here, between %s and %s", pemBegin, pemEnd)
	}
	block, rest := pem.Decode([]byte(strings.Join(lines, "\n") + "\n"))
	if block == nil || len(rest) > 0 || len(block.Headers) > 0 {
		return fmt.Errorf("the certificate cannot be read; copy all of its PEM text, including the last line, %s", pemEnd)
	}
	c, err := ParseCA(block.Bytes)
	switch {
	case err != nil:
		return err
	case len(p.s.ProxyCA) == maxCAs:
		return fmt.Errorf("there are more than %d certificates; write the proxy's CA only", maxCAs)
	}
	p.s.ProxyCA = append(p.s.ProxyCA, c)
	return nil
}

// ParseCA parses the CA certificate of a proxy, in DER.
func ParseCA(der []byte) (*x509.Certificate, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("the certificate cannot be read; copy all of its PEM text")
	}
	if !c.BasicConstraintsValid || !c.IsCA {
		return nil, fmt.Errorf("the certificate %.80q is not a CA certificate; write the certificate of the CA that signed the proxy's certificate", c.Subject.String())
	}
	return c, nil
}

// checkTogether checks that the settings are consistent with each other.
func (p *parser) checkTogether() error {
	s := &p.s
	for _, g := range s.Gateways {
		near := false
		same := slices.ContainsFunc(s.Addresses, func(a netip.Prefix) bool {
			near = near || a.Contains(g) || (g.Is6() && g.IsLinkLocalUnicast())
			if a.Addr() == g {
				near = false
			}
			return a.Addr().Is4() == g.Is4()
		})
		switch {
		case !same:
			return fmt.Errorf("gateway %s needs a machine address of the same family, IPv4 or IPv6; write an address too, or remove the gateway", g)
		case !near:
			return fmt.Errorf("gateway %s must be in the network of the machine's address, and must not be that address itself; correct the gateway, or the address and its prefix length", g)
		}
	}
	if n := len(s.Text()); n > MaxFile {
		return fmt.Errorf("the settings have %d bytes; write at most %d", n, MaxFile)
	}
	https := s.Proxy != nil && s.Proxy.Scheme == "https"
	switch {
	case https && len(s.ProxyCA) == 0:
		return fmt.Errorf("an https proxy needs its CA; add the CA's certificate in PEM, below the settings")
	case !https && len(s.ProxyCA) > 0:
		return fmt.Errorf("a certificate is for an https proxy only, and no https proxy is set; remove the certificate. Machines verify the hub by the hub's own CA, so a proxy that intercepts TLS cannot be used")
	}
	return nil
}

// Empty reports whether there are no settings.
func (s *Settings) Empty() bool { return len(s.lines(false)) == 0 && len(s.ProxyCA) == 0 }

// Static reports whether a family, 4 or 6, has a static address.
func (s *Settings) Static(family int) bool {
	return slices.ContainsFunc(s.Addresses, func(a netip.Prefix) bool { return a.Addr().Is4() == (family == 4) })
}

// Equal reports whether s and o have the same settings.
func (s *Settings) Equal(o *Settings) bool { return s.Text() == o.Text() }

// Text returns the settings as a file, from which Parse returns the same settings. The file
// includes the proxy's password.
func (s *Settings) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "version = %d\n", Version)
	for _, l := range s.lines(false) {
		b.WriteString(l + "\n")
	}
	for _, c := range s.ProxyCA {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.String()
}

// Masked returns the settings as lines that people may see: a line for each setting, with asterisks
// in place of the proxy's password, and a line with the subject of each CA.
func (s *Settings) Masked() []string {
	lines := s.lines(true)
	for _, c := range s.ProxyCA {
		lines = append(lines, fmt.Sprintf("proxy's CA = %q", c.Subject.String()))
	}
	return lines
}

func (s *Settings) lines(masked bool) (lines []string) {
	add := func(key, value string) { lines = append(lines, key+" = "+value) }
	if s.Interface != "" {
		add("interface", s.Interface)
	}
	if s.VLAN != 0 {
		add("vlan", strconv.Itoa(s.VLAN))
	}
	if s.MTU != 0 {
		add("mtu", strconv.Itoa(s.MTU))
	}
	for _, a := range s.Addresses {
		add("address", a.String())
	}
	for _, g := range s.Gateways {
		add("gateway", g.String())
	}
	for _, d := range s.DNS {
		add("dns", d.String())
	}
	for _, n := range s.NTP {
		add("ntp", n)
	}
	switch {
	case s.Proxy == nil:
	case masked:
		add("proxy", Mask(s.Proxy))
	default:
		add("proxy", s.Proxy.String())
	}
	return lines
}

// ProxyPassword returns the password in the proxy's URL, and whether the URL has one.
func (s *Settings) ProxyPassword() (password string, has bool) {
	if s.Proxy == nil {
		return "", false
	}
	return s.Proxy.User.Password()
}

// Mask returns a proxy's URL with its password masked.
func Mask(u *url.URL) string {
	m := *u
	if _, has := u.User.Password(); has {
		m.User = url.UserPassword(u.User.Username(), "xxxxx")
		return strings.Replace(m.String(), ":xxxxx@", ":********@", 1)
	}
	return m.String()
}

// Template is the content of the settings file on a stick without settings. It has only comments,
// which explain how to add settings.
const Template = `# Network settings of the machines that are installed from this stick. Without
# settings, the network configures the machines (DHCP, router advertisements).
# Remove the first # from the lines that you need. docs/image.md explains them.
#
# version = 1
# interface = eth0
# vlan = 42
# mtu = 1500
# address = 192.0.2.10/24
# gateway = 192.0.2.1
# address = 2001:db8::10/64
# gateway = 2001:db8::1
# dns = 192.0.2.53
# ntp = ntp.example
# proxy = http://NAME:PASSWORD@proxy.example:3128
#
# Below the settings, add the CA of a proxy with https://, in PEM.
`
