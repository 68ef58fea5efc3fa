package api_test

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"gangway/internal/brief"
	"gangway/internal/race"
)

// The method `raw` sends the text of a request unchanged, and closes the client's half of the
// connection. It returns the answer, or nil if there is no answer.
func (c *contract) raw(t *testing.T, p *person, text string) *http.Response {
	t.Helper()
	config := p.client.Transport.(*http.Transport).TLSClientConfig.Clone()
	config.NextProtos = []string{"http/1.1"}
	conn := must(tls.Dial("tcp", strings.TrimPrefix(c.URL, "https://"), config))(t)
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	_ = conn.CloseWrite() // fails if the hub has already refused and closed
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp
}

// The test sends a body that is shorter than its Content-Length, conflicting lengths, and malformed
// chunks. The hub answers 4xx or closes the connection. The requests have no effect.
func TestContractLengthThatLies(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	if testing.Short() {
		t.Skip("makes six connections for each route")
	}
	c := newContract(t)
	c.each(func(method, path string, r row) {
		if r.limit == 0 {
			return
		}
		values := r.values(c)
		body := cmp.Or(values["body"], r.body)
		p := c.caller(r)
		head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: test\r\n", method, c.at(path, values), strings.TrimPrefix(c.URL, "https://"))
		if p.token != "" {
			head += "Authorization: Bearer " + p.token + "\r\n"
		}
		if r.form {
			head += "Content-Type: application/x-www-form-urlencoded\r\n"
		}
		// The request sends only half of a good body, which must have no effect.
		half := body[:len(body)/2]
		for name, text := range map[string]string{
			"too long a length":     head + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body)) + half,
			"a huge length":         head + "Content-Length: 9223372036854775807\r\n\r\n" + half,
			"two lengths":           head + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n" + half,
			"a negative length":     head + "Content-Length: -1\r\n\r\n" + half,
			"chunks without an end": head + fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n", len(body)) + half,
			"malformed chunks":      head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n" + half,
		} {
			resp := c.raw(t, p, text)
			if resp == nil {
				continue
			}
			b := must(io.ReadAll(resp.Body))(t)
			if resp.StatusCode < 400 || resp.StatusCode >= 500 {
				t.Errorf("%s %s with %s: %d %s", method, path, name, resp.StatusCode, brief.Of(b))
			}
		}
	})
}
