package doctor

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"gangway/hub/pki"
	"gangway/internal/finding"
)

// serving reports whether a process has locked the hub's lock file, and returns its process id, or
// 0 if the id is not known. It reads the kernel's list of locks. It does not try to lock the file
// itself, because a hub that starts at that moment would then fail to lock it.
func serving(proc, lock string) (pid int, held bool) {
	info, err := os.Stat(lock)
	if err != nil {
		return 0, false
	}
	inode := info.Sys().(*syscall.Stat_t).Ino
	list, err := os.ReadFile(filepath.Join(proc, "locks"))
	if err != nil {
		return 0, false
	}
	// An example of a line: 1: FLOCK ADVISORY WRITE 1234 08:01:5678 0 EOF
	for line := range strings.Lines(string(list)) {
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "FLOCK" {
			continue
		}
		if _, number, ok := cutLast(f[5], ":"); ok && number == fmt.Sprint(inode) {
			pid, _ = strconv.Atoi(f[4])
			return max(pid, 0), true
		}
	}
	return 0, false
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// leastFiles is the smallest number of files that a hub must be allowed to open. Each connected
// device is an open file.
const leastFiles = 4096

// checkProcess examines whether the hub runs, and how many files it may open.
func checkProcess(_ context.Context, e *exam) []finding.Finding {
	if !e.served {
		return []finding.Finding{bad(finding.Warning, "hub-stopped", "No hub is running with this data folder.", "", "Start the hub: 'systemctl start gangway', or gangway serve --data "+e.Data)}
	}
	limits, err := os.ReadFile(filepath.Join(e.proc, fmt.Sprint(e.pid), "limits"))
	if err != nil || e.pid == 0 {
		return good("process", "A hub is running with this data folder.")
	}
	soft := -1
	for line := range strings.Lines(string(limits)) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				if soft, err = strconv.Atoi(f[0]); err != nil {
					soft = -1 // unlimited
				}
			}
		}
	}
	open := 0
	if files, err := os.ReadDir(filepath.Join(e.proc, fmt.Sprint(e.pid), "fd")); err == nil {
		open = len(files)
	}
	switch {
	case soft >= 0 && open > soft*8/10:
		return []finding.Finding{bad(finding.Problem, "files-used-up", fmt.Sprintf("The hub (process %d) has %d open files, and may open at most %d.", e.pid, open, soft),
			"Each connected device is an open file. At the limit, the hub refuses connections.", "Set LimitNOFILE=65536 with 'systemctl edit gangway', and restart the hub.")}
	case soft >= 0 && soft < leastFiles:
		return []finding.Finding{bad(finding.Warning, "files-limit", fmt.Sprintf("The hub (process %d) may open only %d files.", e.pid, soft),
			"Each connected device is an open file.", "Set LimitNOFILE=65536 with 'systemctl edit gangway', and restart the hub.")}
	}
	return good("process", "A hub (process %d) is running with this data folder, and has %d open files.", e.pid, open)
}

// checkListeners examines the addresses at which the hub listens, and reports each of them that
// answers in plain HTTP and that other machines may reach.
func checkListeners(ctx context.Context, e *exam) (found []finding.Finding) {
	if e.pid == 0 {
		return nil
	}
	addresses, err := listening(e.proc, e.pid)
	if err != nil {
		return []finding.Finding{bad(finding.Note, "listeners-unknown", "The addresses at which the hub listens cannot be read.", err.Error(), "Run the doctor as root, or as the hub's user.")}
	}
	var names []string
	local := true
	for _, a := range addresses {
		names = append(names, a.String())
		local = local && a.Addr().IsLoopback()
		if !a.Addr().IsLoopback() && plain(ctx, a) {
			found = append(found, bad(finding.Problem, "metrics-exposed", fmt.Sprintf("The hub answers in plain HTTP at %s, and other machines may reach this address.", a),
				"The metrics reveal the numbers of devices and requests.", "Give --metrics-listen a loopback address, such as 127.0.0.1:12444."))
		}
	}
	slices.Sort(names)
	switch {
	case len(names) == 0:
		return []finding.Finding{bad(finding.Problem, "not-listening", fmt.Sprintf("The hub (process %d) does not listen at any address.", e.pid), "The hub is starting, or does not respond.", "Read the hub's log: journalctl -u gangway")}
	case len(found) > 0:
		return found
	case local:
		return []finding.Finding{bad(finding.Note, "loopback-only", fmt.Sprintf("The hub listens only on loopback addresses: %s.", strings.Join(names, ", ")),
			"Other machines reach the hub only through a proxy or port forwarding on this machine.", "If devices must reach the hub directly: gangway serve --listen :12443 --url https://NAME:12443")}
	}
	return good("listeners", "The hub listens at %s.", strings.Join(names, ", "))
}

// listening returns the TCP addresses at which a process listens.
func listening(proc string, pid int) (list []netip.AddrPort, err error) {
	dir := filepath.Join(proc, fmt.Sprint(pid), "fd")
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	sockets := map[string]bool{}
	for _, f := range files {
		if to, err := os.Readlink(filepath.Join(dir, f.Name())); err == nil && strings.HasPrefix(to, "socket:[") {
			sockets[strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")] = true
		}
	}
	for _, table := range []string{"tcp", "tcp6"} {
		b, err := os.ReadFile(filepath.Join(proc, fmt.Sprint(pid), "net", table))
		if err != nil {
			continue
		}
		for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
			f := strings.Fields(s.Text())
			if len(f) > 9 && f[3] == "0A" && sockets[f[9]] { // 0A: LISTEN
				if a, ok := socketAddress(f[1]); ok {
					list = append(list, a)
				}
			}
		}
	}
	return list, nil
}

// socketAddress parses an address of /proc/net/tcp: the IP address in 32-bit words, a colon, and
// the port. The words are in the byte order of the machine, which is little-endian on every machine
// for which the hub is built.
func socketAddress(text string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(text, ":")
	b, err := hex.DecodeString(host)
	n, err2 := strconv.ParseUint(port, 16, 16)
	if err != nil || err2 != nil {
		return netip.AddrPort{}, false
	}
	for word := range slices.Chunk(b, 4) {
		slices.Reverse(word)
	}
	a, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), ok
}

// plain reports whether the hub answers requests for metrics in plain HTTP at an address of this
// machine.
func plain(ctx context.Context, a netip.AddrPort) bool {
	host := a.Addr()
	if host.IsUnspecified() {
		host = netip.MustParseAddr("127.0.0.1")
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+netip.AddrPortFrom(host, a.Port()).String()+"/metrics", nil)
	if err != nil {
		return false
	}
	t := &http.Transport{Proxy: nil, DisableKeepAlives: true}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// checkURLs connects to each URL of the hub, as a device does, and examines the certificate.
func checkURLs(ctx context.Context, e *exam) (found []finding.Finding) {
	if e.database == nil || e.roots == nil {
		return nil
	}
	if len(e.database.URLs) == 0 {
		return []finding.Finding{bad(finding.Note, "url-none", "The hub has not been started yet, so it has no URL.", "", "")}
	}
	if !e.served {
		return nil
	}
	for _, u := range e.database.URLs {
		found = append(found, e.checkURL(ctx, u))
	}
	return found
}

func (e *exam) checkURL(ctx context.Context, address string) finding.Finding {
	u, err := url.Parse(address)
	if err != nil {
		return bad(finding.Problem, "url-wrong", fmt.Sprintf("The URL %q of the hub is not a valid URL.", address), "", "Start the hub with a valid --url, such as https://NAME:12443.")
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: dialTime}, Config: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: e.roots, ServerName: u.Hostname(), Time: e.now}}
	c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	var unknown x509.UnknownAuthorityError
	var otherName x509.HostnameError
	var expired x509.CertificateInvalidError
	var dns *net.DNSError
	switch {
	case errors.As(err, &unknown):
		return bad(finding.Problem, "url-other", fmt.Sprintf("Another server answers at %s instead of this hub: the server's certificate was not issued by the hub's CA.", address),
			"A proxy that terminates TLS, or another machine, has this address. Devices refuse this server.", "Forward the TCP connection unchanged, or give the proxy a certificate of the hub's CA: gangway ca issue-server --help")
	case errors.As(err, &otherName):
		return bad(finding.Problem, "url-name", fmt.Sprintf("The certificate at %s is not for the name %s.", address, u.Hostname()),
			"The hub was restarted with another --url.", fmt.Sprintf("Start the hub with --also-url %s.", address))
	case errors.As(err, &expired):
		return bad(finding.Problem, "url-expired", fmt.Sprintf("The certificate at %s is not valid now: %v.", address, err), "The clock is wrong, or was wrong when the hub started.", "Set the clock, and restart the hub.")
	case errors.As(err, &dns):
		return bad(finding.Warning, "url-lookup", fmt.Sprintf("The host name of %s cannot be resolved on this machine: %s.", address, dns.Err), "Devices may use other name servers.", "Add the name to the DNS that devices use.")
	case err != nil:
		return bad(finding.Warning, "url-unreachable", fmt.Sprintf("No server answers at %s when this machine connects: %v.", address, err),
			"Possible reasons: a firewall, or a router that does not forward connections from its own network to this URL.", "Test the URL from a machine in another network: curl -k "+address+"/healthz")
	}
	defer c.Close()
	leaf := c.(*tls.Conn).ConnectionState().PeerCertificates[0]
	left := int(leaf.NotAfter.Sub(e.now()).Hours() / 24)
	ofProxy := leaf.Subject.CommonName == pki.ProxySubject
	if left < 14 && ofProxy {
		return bad(finding.Warning, "certificate-expires", fmt.Sprintf("The certificate of the proxy at %s expires in %d day(s).", address, left),
			"The hub does not renew this certificate. After it has expired, no device can connect to the proxy.", "Issue a new certificate, and let the proxy load it: gangway ca issue-server --help")
	}
	if left < 14 {
		return bad(finding.Warning, "certificate-expires", fmt.Sprintf("The certificate at %s expires in %d day(s).", address, left),
			"The hub renews its certificate 30 days before the certificate expires, so the renewal has failed.", "Find the reason in the hub's log: journalctl -u gangway")
	}
	if ofProxy {
		return good("url", "A proxy with a certificate of this hub's CA answers at %s. The certificate is valid for %d more days; nothing renews it.", address, left)[0]
	}
	return good("url", "This hub answers at %s; its certificate is valid for %d more days, and the hub renews it automatically.", address, left)[0]
}
