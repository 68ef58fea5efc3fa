// Package fetch fetches over HTTP what neither a request nor the hub has: the CA certificates
// between an EK certificate and its root (authority information access, RFC 5280, 4.2.2.1), and
// revocation lists (4.2.1.13). Only the hub uses it. It is off unless the operator names hosts.
//
// The URLs come from certificates that are not verified yet, so anyone who may send a request
// chooses them. The defences:
//
//   - Hosts: a URL's host must be on a list of names. Its scheme must be http or https, and its
//     port that scheme's default.
//   - Addresses: the dialled address must be a public one (see IsPublic). It is checked on the
//     socket, after name resolution, so a name that later resolves to another address does not
//     bypass the check. No proxy is used, and no redirect is followed.
//   - Bounds: on sizes, times, concurrent fetches, the rate for each host, the number of waiting
//     requests, and the cache.
//   - Each URL is fetched only once at a time, and the result is cached, failures too. A request
//     that needs no fetch never waits.
//
// A fetched certificate is a link, never a root: it is used only in a chain to a root that the hub
// already trusts.
package fetch
