// Package fetch fetches two things over HTTP for the hub: the CA certificates between an EK
// certificate and its root (authority information access, RFC 5280, 4.2.2.1), and revocation lists
// (4.2.1.13). The hub fetches nothing if the operator has named no hosts.
//
// The URLs come from certificates that the hub has not verified, so anyone who can send a request
// to the hub can choose them. These are the defences:
//
//   - Hosts: a URL's host must be on a list of names. The URL's scheme must be http or https, and
//     its port must be the default port of the scheme.
//   - Addresses: the hub connects only to public addresses (see IsPublic). It checks the socket's
//     address after name resolution, so a name that later resolves to another address does not
//     bypass the check. The hub uses no proxy and follows no redirect.
//   - Bounds: the hub limits the size and duration of each fetch, the number of concurrent
//     fetches, the rate for each host, the number of waiting requests, and the cache.
//   - Load: concurrent requests for one URL share one fetch. The hub caches the result, even a
//     failure. A request that needs no fetch never waits.
//
// A fetched certificate is a link, never a root: it is used only in a chain to a root that the hub
// already trusts.
package fetch
