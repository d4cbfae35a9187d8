//go:build unix

package transport

import "syscall"

// openFiles returns how many files and sockets the process may have open at a time.
func openFiles() uint64 {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return manyFiles
	}
	return uint64(l.Cur)
}
