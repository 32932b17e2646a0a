// Package remote speaks HTTP to other gateways: once to redeem an enrollment token, and then over mutual TLS with
// the certificate that came of it.
//
// Everything a peer controls is bounded here: which addresses are connected to, how long an answer's headers and
// body may be, and what media type it has. Redirects are not followed, cookies are not kept, nothing is unpacked,
// and no proxy of the environment is used, because a proxy would connect where the dial guard does not look.
package remote
