// Package valkey is what replicas share in memory: rate limits. It is the only package that knows the driver.
//
// What is kept there is a convenience that may be lost at any time. Nothing waits for Valkey to be there, and what
// is in it must not outlive it: a server that writes to disk is refused.
package valkey
