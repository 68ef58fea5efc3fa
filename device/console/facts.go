package console

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"gangway/device/agent"
	"gangway/device/console/access"
	"gangway/device/doctor"
	"gangway/device/install/netfile"
)

// facts are the data about the machine that the console's pages show. The console reads the facts
// every few seconds.
type facts struct {
	state    *agent.State
	stateErr error
	level    access.Level
	cards    []doctor.Card
	cardsErr error
	names    []string // name servers
	proxy    string   // the proxy's URL with its password masked; empty: no proxy
	network  string   // report on the network settings; empty: unknown
	chain    []*x509.Certificate
	log      []string
	logErr   error
	host     string
	uptime   time.Duration
}

// health is the result of an examination of the machine (package doctor). It is separate from
// facts, because an examination takes longer than reading the facts.
type health struct {
	findings []doctor.Finding
	tpm      *doctor.TPM
	tpmErr   error
	at       time.Time
}

// Limits for the data that the console reads.
const (
	maxLogTail = 64 << 10 // bytes
	maxLines   = 400
	toolTime   = 5 * time.Second // of another program
)

// The method `read` reads the facts. It needs no TPM and no network.
func (c *Config) read(ctx context.Context) *facts {
	f := &facts{}
	f.state, f.stateErr = agent.ReadState(c.Doctor.StateDir)
	if f.state == nil {
		f.state = &agent.State{}
	}
	f.level = c.level(f.state, f.stateErr)
	f.cards, f.cardsErr = doctor.Cards()
	f.names = nameServers("/etc/resolv.conf")
	if p := c.Doctor.Proxy; p != nil {
		f.proxy = netfile.Mask(p.URL)
	}
	if c.Machine != nil {
		f.network, _ = c.Machine.NetworkReport(ctx) // on an error, the page shows only the addresses
	}
	f.chain = certificates(filepath.Join(c.Doctor.StateDir, "identity.pem"))
	f.log, f.logErr = c.tail(ctx)
	f.host, _ = os.Hostname()
	f.uptime = uptime()
	return f
}

// The method `level` returns the level that the console has now. `s` is the agent's state, and
// `err` is the error of reading that state.
func (c *Config) level(s *agent.State, err error) access.Level {
	whose := access.Unowned
	switch {
	case err != nil:
		whose = access.Owned // the owner is not known, so use the strictest case
	case s.Phase == agent.PhaseActive:
		whose = access.Owned
	case s.Phase == agent.PhaseRemoved && s.Removed == "revoked":
		whose = access.GivenUp
	case s.Phase == agent.PhaseRemoved:
		whose = access.Doubtful
	case s.Former != nil: // it is onboarding again
		whose = access.Owned
	}
	return access.Effective(c.Limit, whose, access.Setting(filepath.Join(c.Doctor.StateDir, "user-meta.json")))
}

// examine runs the checks of gangway-agent doctor.
func (c *Config) examine(ctx context.Context) *health {
	h := &health{at: time.Now()}
	h.tpm, h.tpmErr = doctor.ReadTPM(ctx, c.Doctor.TPM)
	h.findings = doctor.Examine(ctx, c.Doctor)
	return h
}

func nameServers(file string) (out []string) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" && net.ParseIP(f[1]) != nil {
			out = append(out, f[1])
		}
	}
	return out
}

// The function `certificates` reads the device's certificate and the certificate of the CA that
// issued it.
func certificates(file string) (out []*x509.Certificate) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			out = append(out, c)
		}
	}
	return out
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// tail returns the last lines of the log. It reads the file LogFile, or systemd's journal if
// LogFile is empty.
func (c *Config) tail(ctx context.Context) ([]string, error) {
	if c.LogFile == "" {
		return journal(ctx)
	}
	f, err := os.Open(c.LogFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	from := max(0, info.Size()-maxLogTail)
	b, err := io.ReadAll(io.NewSectionReader(f, from, maxLogTail))
	if err != nil {
		return nil, err
	}
	if from > 0 { // remove the first line, which is incomplete
		_, rest, _ := strings.Cut(string(b), "\n")
		b = []byte(rest)
	}
	return lines(string(b)), nil
}

func journal(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, toolTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, "journalctl", "--unit=gangway-agent", "--lines=200", "--no-pager", "--output=short-iso").Output()
	if err != nil {
		return nil, err
	}
	return lines(string(out[max(0, len(out)-maxLogTail):])), nil
}

// The function `lines` returns the last maxLines lines of a text.
func lines(text string) []string {
	text = strings.TrimRight(text, "\n")
	if text == "" {
		return nil
	}
	all := strings.Split(text, "\n")
	return all[max(0, len(all)-maxLines):]
}

func uptime() time.Duration {
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0
	}
	seconds, _, _ := strings.Cut(string(b), ".")
	d, _ := time.ParseDuration(seconds + "s")
	return d
}
