//go:build !unix

package transport

import "net"

// rawWriter is not available: a goroutine writes.
type rawWriter struct{}

func newRawWriter(net.Conn) *rawWriter { return nil }

func (*rawWriter) write([]byte) (int, error) { return 0, nil }
