// Package machine is the replicated state machine of a service: it executes the committed entries of the log, and decides
// which requests of clients enter the log.
package machine
