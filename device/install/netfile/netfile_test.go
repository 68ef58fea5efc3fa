package netfile

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

// certificate makes a certificate in PEM, of a CA or of a server.
func certificate(t testing.TB, name string, isCA bool) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: isCA, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestReadsWhatAPersonWrites(t *testing.T) {
	t.Parallel()
	ca := certificate(t, "Example proxy CA", true)
	for name, c := range map[string]struct {
		text string
		want []string // the result of Masked
	}{
		"nothing":            {"", nil},
		"the stick's":        {Template, nil},
		"only the version":   {"version = 1\n", nil},
		"an editor's marks":  {"\xef\xbb\xbfversion=1\r\n\r\n# office\r\n  MTU =1280 \r\n", []string{"mtu = 1280"}},
		"no last line break": {"version = 1\nvlan = 4094", []string{"vlan = 4094"}},
		"addresses": {"version = 1\naddress = 192.0.2.10/24\naddress = 2001:db8::10/64\ngateway = fe80::1\ngateway = 192.0.2.1\ndns = 2001:db8::53\ndns = 192.0.2.53",
			[]string{"address = 192.0.2.10/24", "address = 2001:db8::10/64", "gateway = fe80::1", "gateway = 192.0.2.1", "dns = 2001:db8::53", "dns = 192.0.2.53"}},
		"a point-to-point network": {"version = 1\naddress = 192.0.2.0/31\ngateway = 192.0.2.1", []string{"address = 192.0.2.0/31", "gateway = 192.0.2.1"}},
		"a card by its address":    {"version = 1\ninterface = 52-54-00-AB-CD-EF\nntp = time.example\nntp = 192.0.2.123", []string{"interface = 52:54:00:ab:cd:ef", "ntp = time.example", "ntp = 192.0.2.123"}},
		"a card by its name":       {"version = 1\ninterface = enp0s31f6", []string{"interface = enp0s31f6"}},
		"a proxy":                  {"version = 1\nproxy = http://[2001:db8::1]:3128/", []string{"proxy = http://[2001:db8::1]:3128"}},
		"a proxy with a password":  {"version = 1\nproxy = http://ada:p%40ss@proxy.example:3128", []string{"proxy = http://ada:********@proxy.example:3128"}},
		"an https proxy":           {"version = 1\n" + strings.ReplaceAll(ca, "\n", "\r\n") + "proxy = https://proxy.example:3129\n", []string{"proxy = https://proxy.example:3129", `proxy's CA = "CN=Example proxy CA"`}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Parse([]byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Masked(); !slices.Equal(got, c.want) {
				t.Errorf("got %q; want %q", got, c.want)
			}
			if s.Empty() != (len(c.want) == 0) {
				t.Errorf("Empty is %v", s.Empty())
			}
			again, err := Parse([]byte(s.Text()))
			if err != nil || !again.Equal(s) {
				t.Errorf("Parse of Text gives other settings (%v): %.500q", err, s.Text())
			}
		})
	}
}

// The error of every invalid file names the line and explains what to write instead. No error
// quotes a password.
func TestMistakesSayWhatToWriteInstead(t *testing.T) {
	t.Parallel()
	ca, leaf := certificate(t, "ca", true), certificate(t, "server", false)
	const v = "version = 1\n"
	for name, c := range map[string]struct {
		text string
		line int
		want string
	}{
		"UTF-16":                         {"\xff\xfev\x00e\x00", 0, "save it as plain text in UTF-8"},
		"too long":                       {v + strings.Repeat("#", MaxFile), 0, "write at most 16384"},
		"too long as it is written":      {v + "proxy = http://" + strings.Repeat("(", 10000) + "@proxy.example:3128", 0, "write at most 16384"},
		"no version":                     {"mtu = 1280", 1, "the first setting must be version = 1"},
		"a later version":                {"# x\nversion = 2", 2, "write version = 1, or update this machine"},
		"no setting":                     {v + "192.0.2.1", 2, "the line is not KEY = VALUE"},
		"an unknown key":                 {v + "adress = 192.0.2.10/24", 2, `no setting "adress"; the keys are`},
		"no value":                       {v + "vlan =", 2, "write one, or remove the line"},
		"a key twice":                    {v + "vlan = 1\nvlan = 2", 3, "remove one"},
		"an interface that is a path":    {v + "interface = ../eth0", 2, "a name like eth0"},
		"the loopback":                   {v + "interface = lo", 2, "a name like eth0"},
		"a long interface":               {v + "interface = abcdefghijklmnop", 2, "a name like eth0"},
		"half a MAC address":             {v + "interface = 52:54:00", 2, "52:54:00:12:34:56"},
		"VLAN 0":                         {v + "vlan = 0", 2, "from 1 to 4094"},
		"VLAN 4095":                      {v + "vlan = 4095", 2, "from 1 to 4094"},
		"VLAN +1":                        {v + "vlan = +1", 2, "from 1 to 4094"},
		"an MTU below IPv6's":            {v + "mtu = 1279", 2, "from 1280 to 9216"},
		"an MTU in kilobytes":            {v + "mtu = 1.5k", 2, "from 1280 to 9216"},
		"no prefix length":               {v + "address = 192.0.2.10", 2, "192.0.2.10/24"},
		"a netmask":                      {v + "address = 192.0.2.10/255.255.255.0", 2, "192.0.2.10/24"},
		"a multicast address":            {v + "address = 224.0.0.1/24", 2, "cannot be the address of a machine"},
		"a mapped address":               {v + "address = ::ffff:192.0.2.1/120", 2, "cannot be the address of a machine"},
		"the network itself":             {v + "address = 192.0.2.0/24", 2, "a machine's address in that network"},
		"the broadcast address":          {v + "address = 192.0.2.255/24", 2, "a machine's address in that network"},
		"a link-local address":           {v + "address = fe80::1/64", 2, "a global address"},
		"two addresses of a family":      {v + "address = 192.0.2.10/24\naddress = 192.0.2.11/24", 3, "at most one IPv4 address and one IPv6 address"},
		"a gateway that is a name":       {v + "gateway = router", 2, "192.0.2.1 or fe80::1"},
		"a gateway with a zone":          {v + "gateway = fe80::1%eth0", 2, "192.0.2.1 or fe80::1"},
		"a gateway without an address":   {v + "gateway = 192.0.2.1", 0, "write an address too"},
		"a gateway of another network":   {v + "address = 192.0.2.10/24\ngateway = 192.0.3.1", 0, "correct the gateway"},
		"the machine as its own gateway": {v + "address = 192.0.2.10/24\ngateway = 192.0.2.10", 0, "must not be that address itself"},
		"a name server by name":          {v + "dns = dns.example", 2, "192.0.2.53"},
		"a name server on a link":        {v + "dns = fe80::53", 2, "the global address of a name server"},
		"four name servers":              {v + "dns = 192.0.2.1\ndns = 192.0.2.2\ndns = 192.0.2.3\ndns = 192.0.2.4", 5, "at most 3"},
		"a time server's URL":            {v + "ntp = http://time.example", 2, "write host names or addresses"},
		"half an address":                {v + "ntp = 192.0.2", 2, "write host names or addresses"},
		"a proxy without http":           {v + "proxy = proxy.example:3128", 2, "http://proxy.example:3128"},
		"a SOCKS proxy":                  {v + "proxy = socks5://proxy.example:1080", 2, "neither with http:// nor with https://"},
		"a proxy without a port":         {v + "proxy = http://proxy.example", 2, "has no port"},
		"a proxy with a path":            {v + "proxy = http://proxy.example:3128/pac", 2, "more than a host and a port"},
		"a proxy on two lines":           {v + "proxy = http://a:b\n@proxy.example:3128", 2, "is not a URL"},
		"a password with a slash":        {v + "proxy = http://ada:hunter2/x@proxy.example:3128", 2, "%2F"},
		"a header in a name":             {v + "proxy = http://ada%0d%0aX:hunter2@proxy.example:3128", 2, "control characters"},
		"https without a CA":             {v + "proxy = https://proxy.example:3129", 0, "add the CA's certificate"},
		"a CA without a proxy":           {v + ca, 0, "for an https proxy only"},
		"a CA with an http proxy":        {v + "proxy = http://proxy.example:3128\n" + ca, 0, "for an https proxy only"},
		"a server's certificate":         {v + "proxy = https://proxy.example:3129\n" + leaf, 3, "is not a CA certificate"},
		"half a certificate":             {v + "proxy = https://proxy.example:3129\n" + ca[:200], 3, "copy all of its PEM text"},
		"a private key":                  {v + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", 2, "a private key does not belong here"},
		"five CAs":                       {v + strings.Repeat(ca, 5), 2 + 4*strings.Count(ca, "\n"), "write the proxy's CA only"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Parse([]byte(c.text))
			var m *Mistake
			if !errors.As(err, &m) {
				t.Fatalf("got %v, %v; want a *Mistake", s, err)
			}
			if m.Line != c.line || !strings.Contains(m.Text, c.want) {
				t.Errorf("got %v; want line %d and %q", err, c.line, c.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error quotes the password: %v", err)
			}
		})
	}
}

// For every file, Parse returns without a panic. If Parse accepts the file, Text returns a file
// with the same settings, and Masked does not show the proxy's password.
func FuzzParse(f *testing.F) {
	f.Add(Template)
	f.Add(strings.ReplaceAll(Template, "# ", ""))
	f.Add("version = 1\naddress = 192.0.2.10/24\ngateway = 192.0.2.1\nproxy = http://ada:hunter2@proxy.example:3128\n")
	f.Add("version = 1\nproxy = https://proxy.example:3129\n" + certificate(f, "ca", true))
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse([]byte(text))
		if err != nil {
			return
		}
		again, err := Parse([]byte(s.Text()))
		if err != nil || again.Text() != s.Text() {
			t.Fatalf("Parse of the text %.500q gives %v, %v", s.Text(), again, err)
		}
		if s.Proxy != nil {
			if password, ok := s.Proxy.User.Password(); ok && len(password) > 8 && !strings.Contains(s.Proxy.Host+s.Proxy.User.Username()+"********", password) && strings.Contains(strings.Join(s.Masked(), "\n"), password) {
				t.Errorf("Masked shows the password: %.500q", s.Masked())
			}
		}
	})
}
