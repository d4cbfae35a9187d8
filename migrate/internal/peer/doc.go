// Package peer holds the connections that a host makes to other hosts, and sends the protocol's messages on them.
//
// A link is dialled when there is something to send. It is given up when the host does not answer, or after a minute without
// use. Messages may be lost: the protocol repeats them.
package peer
