// Package fetch looks up on the web what neither a request nor the hub has:
// the CA certificates between an EK certificate and its root (authority
// information access, RFC 5280, 4.2.2.1), and revocation lists (4.2.1.13). It
// is the hub's side's, and off unless the operator names hosts.
//
// The addresses to fetch from come out of certificates that nobody has
// verified yet, so whoever may send a request chooses them. What answers that:
//
//   - Hosts: a URL's host must be one of a list of names, its scheme http or
//     https, its port the scheme's own.
//   - Addresses: the address that is dialled, after names were resolved, must
//     be a public one (see Public). It is checked on the socket, so a name that
//     resolves to something else the second time gains nothing. No proxy is
//     used, and no redirect is followed.
//   - Bounds: on the size, the time, the number of fetches at once, the rate
//     for each host, what waits, and what is kept.
//   - One fetch of a URL at a time, its result kept, failures too. A request
//     that needs nothing from here never waits.
//
// What was fetched is a link, never a root: it is used only where its
// signatures lead to a root that the hub trusts already.
package fetch
