//go:build !windows

package transport

import "syscall"

// socketErrors is empty: the system uses the numbers of package syscall.
var socketErrors map[syscall.Errno]syscall.Errno
