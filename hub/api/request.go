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

// readJSON reads the body into v with the strict reader. Unknown fields are ignored, because
// Pantacor's clients send some. A duplicate name, a name in another case, null and trailing data
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
	return problem(http.StatusBadRequest, "body-malformed", "See /openapi.json for what is expected.", "The body cannot be read: %v.", err)
}

// readBody reads the body, of any content type. The route table bounds its size.
func readBody(r *http.Request) ([]byte, error) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, badBody(err)
	}
	return b, nil
}

// readForm reads the form of a page into r.PostForm.
func readForm(r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return badBody(err)
	}
	return nil
}

// limitOf reads ?limit=, from 1 to 1000.
func limitOf(r *http.Request, otherwise int) (int, error) {
	v := r.URL.Query().Get("limit")
	if v == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > 1000 {
		return 0, problem(http.StatusBadRequest, "limit", "Ask for 1 to 1000.", "The limit is no number from 1 to 1000.")
	}
	return n, nil
}

// pageSize reads a limit from 1 to 1000; one that is not given is otherwise.
func pageSize(limit string, otherwise int) (int, error) {
	if limit == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(limit)
	if err != nil || n < 1 || n > 1000 {
		return 0, problem(http.StatusBadRequest, "limit", "Ask for 1 to 1000.", "The limit is no number from 1 to 1000.")
	}
	return n, nil
}

// readError tells a body that is too large or cut short from trouble of ours.
func readError(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return err
	}
	return problem(http.StatusBadRequest, "body-incomplete", "Send the request again.", "The body did not arrive whole.")
}

// remoteAddr is the peer's IP address, without the port.
func remoteAddr(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// revOf reads {rev}, a number as it is written everywhere else.
func revOf(r *http.Request) (int, error) {
	v := r.PathValue("rev")
	rev, err := strconv.Atoi(v)
	if err != nil || rev < 0 || rev > 1<<31 || strconv.Itoa(rev) != v {
		return 0, store.ErrNotFound
	}
	return rev, nil
}

// printable replaces what no database or terminal likes inside a text.
func printable(s string) string { return strings.ReplaceAll(s, "\x00", "\ufffd") }
