package transport

import "syscall"

// socketErrors are the errors of Windows sockets. Package syscall has invented numbers for the names on the right, which the
// system never returns.
var socketErrors = map[syscall.Errno]syscall.Errno{
	10013: syscall.EACCES,        // WSAEACCES
	10024: syscall.EMFILE,        // WSAEMFILE
	10048: syscall.EADDRINUSE,    // WSAEADDRINUSE
	10049: syscall.EADDRNOTAVAIL, // WSAEADDRNOTAVAIL
	10050: syscall.ENETDOWN,      // WSAENETDOWN
	10051: syscall.ENETUNREACH,   // WSAENETUNREACH
	10053: syscall.ECONNABORTED,  // WSAECONNABORTED
	10054: syscall.ECONNRESET,    // WSAECONNRESET
	10060: syscall.ETIMEDOUT,     // WSAETIMEDOUT
	10061: syscall.ECONNREFUSED,  // WSAECONNREFUSED
	10065: syscall.EHOSTUNREACH,  // WSAEHOSTUNREACH
}
