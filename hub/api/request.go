package api

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	"gangway/hub/store"
	"gangway/internal/strictjson"
)

// readJSON decodes the JSON body into v with package strictjson. It ignores unknown fields, because
// Pantacor's clients send some. Duplicate names, names in a different case, null and trailing data
// are errors.
func readJSON(r *http.Request, v any) error {
	body, err := readBody(r)
	if err != nil {
		return err
	}
	if err := strictjson.Decode(body, v); err != nil {
		return badBody(err)
	}
	return nil
}

func badBody(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return err
	}
	return problem(http.StatusBadRequest, "body-malformed", "See /openapi.json for the expected body.", "The body cannot be read: %v.", err)
}

// readBody reads the body, whatever its content type. The route table bounds its size.
func readBody(r *http.Request) ([]byte, error) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, badBody(err)
	}
	return b, nil
}

// readForm parses the form of a web page into r.PostForm.
func readForm(r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return badBody(err)
	}
	return nil
}

// pageSize returns ?limit=, a number from 1 to 1000. If the query has no limit, pageSize returns
// `otherwise`.
func pageSize(r *http.Request, otherwise int) (int, error) {
	v := r.URL.Query().Get("limit")
	if v == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > 1000 {
		return 0, problem(http.StatusBadRequest, "limit", "Use a number from 1 to 1000.", "\"limit\" is not a number from 1 to 1000.")
	}
	return n, nil
}

// readError returns the problem that describes a body that is too large, or that could not be read
// to its end.
func readError(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return err
	}
	return problem(http.StatusBadRequest, "body-incomplete", "Send the request again.", "The body is incomplete.")
}

// remoteAddr returns the client's IP address, without the port.
func remoteAddr(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// revInPath returns the revision number {rev} in the path, a decimal number without leading zeros.
func revInPath(r *http.Request) (int, error) {
	v := r.PathValue("rev")
	rev, err := strconv.Atoi(v)
	if err != nil || rev < 0 || rev > 1<<31 || strconv.Itoa(rev) != v {
		return 0, store.ErrNotFound
	}
	return rev, nil
}

// printable replaces NUL characters, which databases and terminals may treat as the end of a text.
func printable(s string) string { return strings.ReplaceAll(s, "\x00", "\ufffd") }
